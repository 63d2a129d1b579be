//! Access and refresh tokens.
//!
//! An access token is a JWT (`alg: EdDSA`, `typ: at+jwt`, ten minutes) that says who may do what. A refresh token is opaque: the session's id and
//! 32 random bytes; only its SHA-256 is recorded.

use std::{
    num::NonZeroUsize,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aggregates::{AccountId, Role, SessionId};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use key_vault::{KeyVault, TokenKey};
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

/// What access tokens say of themselves, and how long tokens last.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// Who issues them (`iss`).
    pub issuer: String,
    /// Whom they are for (`aud`).
    pub audience: String,
    /// How long an access token is valid.
    pub access_ttl: Duration,
    /// How long a session lasts without a new login.
    pub refresh_ttl: Duration,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            issuer: "jangbu".to_owned(),
            audience: "jangbu-api".to_owned(),
            access_ttl: Duration::from_mins(10),
            refresh_ttl: Duration::from_hours(24 * 30),
        }
    }
}

/// Who is asking, as a valid access token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The account.
    pub account: AccountId,
    /// What it may do.
    pub role: Role,
}

/// Why an access token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours: forged, altered, or meant for something else.
    #[error("this access token is not valid")]
    Invalid,
    /// It was one.
    #[error("this access token has expired")]
    Expired,
    /// The keys could not be looked at for too long: it may be one, and later that can be told.
    #[error("whether this access token is valid cannot be told now")]
    Unknown,
}

const TYPE: &str = "at+jwt";
const STRIPES: usize = 16;
const TOKENS_PER_STRIPE: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// A token of ours has fewer bytes by far.
const LONGEST_TOKEN: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    role: Role,
    sid: Uuid,
    iat: u64,
    exp: u64,
}

/// Believes access tokens, or does not. Clones share one memory of the tokens that were verified: an Ed25519 signature costs more than
/// all the rest of a request.
#[derive(Clone)]
pub struct TokenVerifier {
    shared: Arc<Verifier>,
}

type Verified = LruCache<[u8; 32], Examined>;

/// What a token says whose signature is right.
#[derive(Clone)]
struct Examined {
    principal: Principal,
    until: u64,
    /// The key that signed it.
    kid: Arc<str>,
}

struct Verifier {
    vault: KeyVault,
    validation: Validation,
    /// BLAKE3 of a token that was verified, who it stands for, and when that ends.
    verified: [Mutex<Verified>; STRIPES],
}

impl TokenVerifier {
    /// Verifies with the keys of this vault.
    pub fn new(vault: KeyVault, settings: &TokenSettings) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Judged here, so that a token from the memory is judged alike.
        validation.validate_exp = false;
        let verified = std::array::from_fn(|_| Mutex::new(LruCache::new(TOKENS_PER_STRIPE)));
        Self {
            shared: Arc::new(Verifier {
                vault,
                validation,
                verified,
            }),
        }
    }

    /// Whose token it is.
    pub fn verify(&self, token: &str) -> Result<Principal, TokenError> {
        self.verify_at(token, seconds_now())
    }

    fn verify_at(&self, token: &str, now: u64) -> Result<Principal, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::Invalid);
        }
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        let stripe = &self.shared.verified[usize::from(hash[0]) % STRIPES];
        let known = stripe.lock().get(&hash).cloned();
        // The keys may have been rotated or removed since.
        let known = known.filter(|known| self.shared.vault.knows_token_key(&known.kid));
        let remembered = known.is_some();
        let examined = match known {
            Some(known) => known,
            None => self.examine(token).inspect_err(|error| {
                if *error != TokenError::Unknown {
                    stripe.lock().pop(&hash);
                }
            })?,
        };
        if now >= examined.until {
            stripe.lock().pop(&hash);
            return Err(TokenError::Expired);
        }
        let principal = examined.principal;
        if !remembered {
            stripe.lock().put(hash, examined);
        }
        Ok(principal)
    }

    /// Looks at everything but the time.
    fn examine(&self, token: &str) -> Result<Examined, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        if header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(TYPE) {
            return Err(TokenError::Invalid);
        }
        let kid = header.kid.ok_or(TokenError::Invalid)?;
        let key = self.shared.vault.token_key(&kid).map_err(|_| TokenError::Unknown)?;
        let key = key.ok_or(TokenError::Invalid)?;
        let key = DecodingKey::from_ed_der(key.public_bytes());
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &self.shared.validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        Ok(Examined {
            principal: Principal {
                account: AccountId::new(claims.sub),
                role: claims.role,
            },
            until: claims.exp,
            kid: kid.into(),
        })
    }
}

/// A new access token.
pub(crate) fn issue(
    settings: &TokenSettings,
    key: &TokenKey,
    principal: Principal,
    session: SessionId,
) -> Result<String, jsonwebtoken::errors::Error> {
    let now = seconds_now();
    let claims = Claims {
        iss: settings.issuer.clone(),
        aud: settings.audience.clone(),
        sub: principal.account.uuid(),
        role: principal.role,
        sid: session.uuid(),
        iat: now,
        exp: now + settings.access_ttl.as_secs(),
    };
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(key.kid().to_owned());
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&key.private_der()))
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What lets a session go on: whoever has it may have new tokens.
pub(crate) struct RefreshToken {
    pub(crate) session: SessionId,
    secret: Zeroizing<String>,
}

impl RefreshToken {
    /// The next one of a session.
    pub(crate) fn new(session: SessionId) -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..])?;
        Ok(Self {
            session,
            secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..])),
        })
    }

    /// What is recorded of it.
    pub(crate) fn hash(&self) -> String {
        use std::fmt::Write as _;
        let hash = Sha256::digest(self.secret.as_bytes());
        hash.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// As its holder keeps it.
    pub(crate) fn expose(&self) -> String {
        format!("{}.{}", self.session, *self.secret)
    }
}

impl FromStr for RefreshToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (session, secret) = text.split_once('.').ok_or(TokenError::Invalid)?;
        let session = session.parse().map_err(|_| TokenError::Invalid)?;
        let fits = secret.len() == 43 && URL_SAFE_NO_PAD.decode(secret).is_ok();
        if fits {
            Ok(Self {
                session,
                secret: Zeroizing::new(secret.to_owned()),
            })
        } else {
            Err(TokenError::Invalid)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Shop {
        vault: KeyVault,
        settings: TokenSettings,
        verifier: TokenVerifier,
        _dir: tempfile::TempDir,
    }

    fn shop() -> Shop {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = KeyVault::open(dir.path()).expect("a vault");
        let settings = TokenSettings::default();
        Shop {
            verifier: TokenVerifier::new(vault.clone(), &settings),
            vault,
            settings,
            _dir: dir,
        }
    }

    fn buyer() -> Principal {
        Principal {
            account: AccountId::new(Uuid::from_u128(7)),
            role: Role::Buyer,
        }
    }

    fn issued(shop: &Shop) -> String {
        issue(&shop.settings, shop.vault.token_keys().current(), buyer(), SessionId::default()).expect("a token")
    }

    /// A token with one thing about it changed, signed with the shop's own key.
    fn altered(shop: &Shop, header: impl FnOnce(&mut Header), claims: impl FnOnce(&mut Value)) -> String {
        let keys = shop.vault.token_keys();
        let mut head = Header::new(Algorithm::EdDSA);
        head.typ = Some(TYPE.to_owned());
        head.kid = Some(keys.current().kid().to_owned());
        header(&mut head);
        let now = seconds_now();
        let mut body = json!({"iss": "jangbu", "aud": "jangbu-api", "sub": Uuid::nil(), "role": "BUYER", "sid": Uuid::nil(), "iat": now, "exp": now + 60});
        claims(&mut body);
        jsonwebtoken::encode(&head, &body, &EncodingKey::from_ed_der(&keys.current().private_der())).expect("a token")
    }

    #[test]
    fn a_token_stands_for_its_account_until_it_expires() {
        let shop = shop();
        let token = issued(&shop);
        let now = seconds_now();
        assert_eq!(shop.verifier.verify(&token), Ok(buyer()));
        assert_eq!(shop.verifier.verify(&token), Ok(buyer()), "from the memory");
        assert_eq!(shop.verifier.verify_at(&token, now + 601), Err(TokenError::Expired));
        assert_eq!(shop.verifier.verify_at(&token, now + 601), Err(TokenError::Expired), "and afresh");
    }

    #[test]
    fn a_token_outlives_one_rotation_of_the_keys() {
        let shop = shop();
        let token = issued(&shop);
        shop.vault.rotate_token_keys().expect("a new key");
        assert_eq!(shop.verifier.verify(&token), Ok(buyer()));
        let fresh = TokenVerifier::new(shop.vault.clone(), &shop.settings);
        shop.vault.rotate_token_keys().expect("a new key");
        assert_eq!(fresh.verify(&token), Err(TokenError::Invalid));
        assert_eq!(
            shop.verifier.verify(&token),
            Err(TokenError::Invalid),
            "whoever remembers it does not believe it any longer"
        );
    }

    #[test]
    fn a_token_that_is_not_exactly_ours_is_refused() {
        let shop = shop();
        assert!(shop.verifier.verify(&altered(&shop, |_| {}, |_| {})).is_ok());
        let forged = [
            altered(&shop, |header| header.typ = Some("JWT".to_owned()), |_| {}),
            altered(&shop, |header| header.typ = None, |_| {}),
            altered(&shop, |header| header.kid = None, |_| {}),
            altered(&shop, |header| header.kid = Some("other".to_owned()), |_| {}),
            altered(&shop, |_| {}, |claims| claims["iss"] = json!("somebody")),
            altered(&shop, |_| {}, |claims| claims["aud"] = json!("webhooks")),
            altered(&shop, |_| {}, |claims| claims["role"] = json!("OWNER")),
            altered(&shop, |_| {}, |claims| claims["sub"] = json!("me")),
            altered(
                &shop,
                |_| {},
                |claims| drop(claims.as_object_mut().and_then(|claims| claims.remove("exp"))),
            ),
            altered(
                &shop,
                |_| {},
                |claims| drop(claims.as_object_mut().and_then(|claims| claims.remove("aud"))),
            ),
        ];
        for token in forged {
            assert_eq!(shop.verifier.verify(&token), Err(TokenError::Invalid), "{token}");
        }
        let past = altered(&shop, |_| {}, |claims| claims["exp"] = json!(seconds_now() - 1));
        assert_eq!(shop.verifier.verify(&past), Err(TokenError::Expired));
    }

    #[test]
    fn neither_no_algorithm_nor_another_nor_another_key_is_believed() {
        let shop = shop();
        let token = issued(&shop);
        let body = token.split('.').nth(1).expect("claims").to_owned();
        let kid = shop.vault.token_keys().current().kid().to_owned();
        let encoded = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
        let none = format!("{}.{body}.", encoded(json!({"alg": "none", "typ": TYPE, "kid": kid})));
        assert_eq!(shop.verifier.verify(&none), Err(TokenError::Invalid));

        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid.clone());
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&body).expect("base64")).expect("JSON");
        let public = shop.vault.token_keys().current().public_bytes().to_vec();
        let confused = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&public)).expect("a token");
        assert_eq!(shop.verifier.verify(&confused), Err(TokenError::Invalid));

        let other = self::shop();
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(kid);
        let key = EncodingKey::from_ed_der(&other.vault.token_keys().current().private_der());
        let foreign = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
        assert_eq!(shop.verifier.verify(&foreign), Err(TokenError::Invalid));

        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let mut flipped = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        flipped[0] ^= 1;
        assert_eq!(
            shop.verifier.verify(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(flipped))),
            Err(TokenError::Invalid)
        );
        for garbage in ["", ".", "..", "a.b.c", "한글", &"x".repeat(LONGEST_TOKEN + 1)] {
            assert_eq!(shop.verifier.verify(garbage), Err(TokenError::Invalid));
        }
    }

    #[test]
    fn a_refresh_token_reads_back_as_itself() {
        let token = RefreshToken::new(SessionId::new(Uuid::from_u128(5))).expect("randomness");
        let read: RefreshToken = token.expose().parse().expect("the same");
        assert_eq!((read.session, read.hash()), (token.session, token.hash()));
        for garbage in ["", "a.b", "00000000-0000-0000-0000-000000000000.short"] {
            assert!(garbage.parse::<RefreshToken>().is_err());
        }
    }
}
