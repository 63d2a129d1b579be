//! Sealing: XChaCha20-Poly1305 with a random nonce, bound to the subject.
//!
//! A sealed text is `v1.` and the base64url form of nonce, ciphertext and tag. 24 random bytes never repeat in practice, so no counter
//! has to survive a restart.

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{AeadInOut, inout::InOutBuf};
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use crate::error::VaultError;
use crate::place::Secret;

const VERSION: &str = "v1.";
pub(crate) const NONCE: usize = 24;
const TAG: usize = 16;

pub(crate) fn seal(key: &Secret, subject: Uuid, nonce: [u8; NONCE], plain: &str) -> Result<String, VaultError> {
    let mut sealed = Vec::with_capacity(NONCE + plain.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain.as_bytes());
    let (nonce, text) = sealed.split_at_mut(NONCE);
    let nonce = XNonce::try_from(&*nonce).expect("split at the length of a nonce");
    let tag = cipher(key)
        .encrypt_inout_detached(&nonce, subject.as_bytes(), InOutBuf::from(text))
        .map_err(|_| VaultError::TooLong)?;
    sealed.extend_from_slice(&tag);
    let mut printed = String::with_capacity(VERSION.len() + sealed.len().div_ceil(3) * 4);
    printed.push_str(VERSION);
    URL_SAFE_NO_PAD.encode_string(&sealed, &mut printed);
    Ok(printed)
}

pub(crate) fn open(key: &Secret, subject: Uuid, sealed: &str) -> Result<Zeroizing<String>, VaultError> {
    let printed = sealed.strip_prefix(VERSION).ok_or(VaultError::NotSealed)?;
    let bytes = URL_SAFE_NO_PAD.decode(printed).map_err(|_| VaultError::NotSealed)?;
    let (nonce, rest) = bytes.split_at_checked(NONCE).ok_or(VaultError::NotSealed)?;
    let (text, tag) = rest.split_last_chunk::<TAG>().ok_or(VaultError::NotSealed)?;
    let nonce = XNonce::try_from(nonce).expect("split at the length of a nonce");
    let mut plain = Zeroizing::new(text.to_vec());
    cipher(key)
        .decrypt_inout_detached(&nonce, subject.as_bytes(), InOutBuf::from(&mut plain[..]), &Tag::from(*tag))
        .map_err(|_| VaultError::NotAuthentic)?;
    String::from_utf8(std::mem::take(&mut *plain)).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        VaultError::NotSealed
    })
}

fn cipher(key: &Secret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}

/// Random bytes of the operating system, taken for 128 nonces at a time: a call for each would cost more than the sealing.
struct Nonces {
    bytes: [u8; 128 * NONCE],
    used: usize,
}

thread_local! {
    static NONCES: RefCell<Nonces> = const { RefCell::new(Nonces { bytes: [0; 128 * NONCE], used: 128 * NONCE }) };
}

pub(crate) fn new_nonce() -> Result<[u8; NONCE], VaultError> {
    NONCES.with_borrow_mut(|nonces| {
        if nonces.used == nonces.bytes.len() {
            getrandom::fill(&mut nonces.bytes).map_err(VaultError::NoRandomness)?;
            nonces.used = 0;
        }
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&nonces.bytes[nonces.used..nonces.used + NONCE]);
        nonces.used += NONCE;
        Ok(nonce)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::new_nonce;

    #[test]
    fn no_nonce_comes_twice() {
        let nonces: HashSet<_> = (0..1000).map(|_| new_nonce().expect("randomness")).collect();
        assert_eq!(nonces.len(), 1000);
    }
}
