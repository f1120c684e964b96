// SPDX-License-Identifier: Apache-2.0
//! Private keys sealed with a password, as cosign keeps them: a key is made of the password by
//! scrypt, and with it the secret is put into a box of NaCl's (go-securesystemslib `encrypted`).
use base64::{Engine as _, engine::general_purpose::STANDARD};
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305, aead::Aead as _};
use serde::{Deserialize, Serialize};
use types::{Context as _, Error, Kind, Result};

/// What such a key is called in PEM; the first is how it is written.
pub(crate) const LABELS: [&str; 2] =
    ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];

/// The cost of a new key. Cosign wrote 32768 first and 65536 later, and reads both.
const COST: Cost = Cost { n: 32768, r: 8, p: 1 };
/// The most memory that a key file may ask for, in bytes.
const MAX_MEMORY: u64 = 512 << 20;

#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Cost,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Cost {
    #[serde(rename = "N")]
    n: u32,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// What is in the box.
///
/// Errors: `PermissionDenied` for a wrong password; `InvalidArgument` for what is no such box.
pub(crate) fn open(data: &[u8], password: &[u8]) -> Result<Vec<u8>> {
    let sealed: Sealed = serde_json::from_slice(data).map_err(malformed)?;
    let (kdf, cipher) = (sealed.kdf.name.as_str(), sealed.cipher.name.as_str());
    if (kdf, cipher) != ("scrypt", "nacl/secretbox") {
        return Err(Error::invalid(format!("a key sealed with {kdf} and {cipher} is not known")));
    }
    let decode = |text: &str| STANDARD.decode(text).map_err(malformed);
    let key = derive(password, &decode(&sealed.kdf.salt)?, sealed.kdf.params)?;
    let nonce: [u8; 24] = decode(&sealed.cipher.nonce)?
        .try_into()
        .map_err(|it: Vec<u8>| Error::invalid(format!("a nonce of {} bytes", it.len())))?;
    let ciphertext = decode(&sealed.ciphertext)?;
    XSalsa20Poly1305::new(&key.into()).decrypt(&nonce.into(), &*ciphertext).map_err(|_opaque| {
        Error::said(Kind::PermissionDenied, "the password does not open the private key")
    })
}

/// Puts a secret into a box.
pub(crate) fn seal(secret: &[u8], password: &[u8]) -> Result<Vec<u8>> {
    let (salt, nonce) = (random::<32>()?, random::<24>()?);
    let key = derive(password, &salt, COST)?;
    let ciphertext = XSalsa20Poly1305::new(&key.into())
        .encrypt(&nonce.into(), secret)
        .map_err(|e| Error::said(Kind::Internal, format!("seal the private key: {e}")))?;
    let sealed = Sealed {
        kdf: Kdf { name: "scrypt".into(), params: COST, salt: STANDARD.encode(salt) },
        cipher: Cipher { name: "nacl/secretbox".into(), nonce: STANDARD.encode(nonce) },
        ciphertext: STANDARD.encode(ciphertext),
    };
    serde_json::to_vec(&sealed).map_err(|e| Error::caused(Kind::Internal, "private key", e))
}

fn derive(password: &[u8], salt: &[u8], cost: Cost) -> Result<[u8; 32]> {
    let memory = 128 * u64::from(cost.n) * u64::from(cost.r);
    let parallel = u64::from(cost.p) * u64::from(cost.r);
    if !cost.n.is_power_of_two() || memory > MAX_MEMORY || parallel > 64 {
        let Cost { n, r, p } = cost;
        return Err(Error::invalid(format!("scrypt with N={n}, r={r}, p={p} is out of bounds")));
    }
    let params = scrypt::Params::new(cost.n.ilog2() as u8, cost.r, cost.p);
    let params = params.map_err(|e| Error::invalid(format!("scrypt: {e}")))?;
    let mut key = [0; 32];
    scrypt::scrypt(password, salt, &params, &mut key)
        .map_err(|e| Error::said(Kind::Internal, format!("scrypt: {e}")))?;
    Ok(key)
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match read.map_err(std::io::Error::from).context(|| "random bytes")? {
        all if all == N => Ok(bytes),
        few => Err(Error::internal(format!("{few} random bytes of {N}"))),
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::caused(Kind::InvalidArgument, "malformed private key", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_would_take_the_machine_is_not_opened() {
        let refuse = |n, r, p| derive(b"", b"", Cost { n, r, p }).unwrap_err().to_string();
        assert!(refuse(1 << 30, 8, 1).contains("out of bounds"));
        assert!(refuse(3, 8, 1).contains("out of bounds"));
        assert!(refuse(32768, 8, 1 << 20).contains("out of bounds"));
    }
}
