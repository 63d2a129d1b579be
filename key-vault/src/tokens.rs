//! The keys of access tokens: Ed25519, one that signs and the one before it.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::place::{Secret, TokenSecrets};

/// What comes before the 32 bytes of a private key in PKCS#8 (RFC 8410), and before those of a public key in SPKI.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The keys of access tokens at one moment.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    current: Arc<TokenKey>,
    previous: Option<Arc<TokenKey>>,
}

impl TokenKeys {
    pub(crate) fn new(secrets: &TokenSecrets) -> Self {
        Self {
            current: Arc::new(TokenKey::new(&secrets.current)),
            previous: secrets.previous.as_ref().map(|key| Arc::new(TokenKey::new(key))),
        }
    }

    /// Whether they are made of these.
    pub(crate) fn are(&self, secrets: &TokenSecrets) -> bool {
        self.current.secret == secrets.current && self.previous.as_ref().map(|key| &key.secret) == secrets.previous.as_ref()
    }

    /// The key that signs.
    pub fn current(&self) -> &TokenKey {
        &self.current
    }

    /// The key that signed before the last rotation, and still verifies.
    pub fn previous(&self) -> Option<&TokenKey> {
        self.previous.as_deref()
    }

    /// The keys that verify, the current one first.
    pub fn verifying(&self) -> impl Iterator<Item = &TokenKey> {
        std::iter::once(self.current()).chain(self.previous())
    }

    /// The key that a token names in its header, if it may still verify.
    pub fn find(&self, kid: &str) -> Option<&TokenKey> {
        self.verifying().find(|key| key.kid() == kid)
    }

    /// The same, for one who keeps it.
    pub(crate) fn take(&self, kid: &str) -> Option<Arc<TokenKey>> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        keys.find(|key| key.kid() == kid).map(Arc::clone)
    }

    /// The public keys as a JWK set (RFC 7517).
    pub fn jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = self.verifying().map(TokenKey::jwk).collect();
        serde_json::json!({ "keys": keys })
    }
}

/// An Ed25519 key for access tokens.
pub struct TokenKey {
    secret: Secret,
    public: [u8; 32],
    x: String,
    kid: String,
}

impl TokenKey {
    fn new(secret: &Secret) -> Self {
        let public = SigningKey::from_bytes(secret).verifying_key().to_bytes();
        let x = URL_SAFE_NO_PAD.encode(public);
        let kid = thumbprint(&x);
        Self {
            secret: secret.clone(),
            public,
            x,
            kid,
        }
    }

    /// The key's name: its thumbprint (RFC 7638), so the same key has the same name everywhere.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The private key in PKCS#8 DER, as `jsonwebtoken::EncodingKey::from_ed_der` takes it.
    pub fn private_der(&self) -> Zeroizing<Vec<u8>> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_HEAD.len() + 32));
        der.extend_from_slice(&PKCS8_HEAD);
        der.extend_from_slice(&self.secret[..]);
        der
    }

    /// The private key in PKCS#8 PEM.
    pub fn private_pem(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(STANDARD.encode(&*self.private_der()));
        Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", &*body))
    }

    /// The 32 bytes of the public key, as `jsonwebtoken::DecodingKey::from_ed_der` takes it.
    pub fn public_bytes(&self) -> &[u8; 32] {
        &self.public
    }

    /// The public key in SPKI DER.
    pub fn public_der(&self) -> Vec<u8> {
        [&SPKI_HEAD[..], &self.public].concat()
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> String {
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(self.public_der())
        )
    }

    /// The public key as the `x` of a JWK, as `jsonwebtoken::DecodingKey::from_ed_components` takes it.
    pub fn x(&self) -> &str {
        &self.x
    }

    /// The public key as a JWK (RFC 8037).
    pub fn jwk(&self) -> serde_json::Value {
        serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": self.x })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

fn thumbprint(x: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::TokenKey;

    /// The example of RFC 8037, appendix A.
    #[test]
    fn the_public_key_and_its_name_are_those_of_the_standard() {
        let secret = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b,
            0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let key = TokenKey::new(&Zeroizing::new(secret).into());
        assert_eq!(key.x(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
