// SPDX-License-Identifier: Apache-2.0
//! Keys, of the three sorts that cosign takes: ECDSA on P-256, RSA, Ed25519.
mod sealed;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::{
    ecdsa,
    pkcs8::{
        DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    },
};
use rsa::{
    pkcs1::{DecodeRsaPrivateKey as _, DecodeRsaPublicKey as _},
    pkcs1v15, pss,
    signature::{SignatureEncoding as _, Signer as _, hazmat::PrehashVerifier as _},
    traits::PublicKeyParts as _,
};
use sha2::{Digest as _, Sha256, Sha512};
use types::{Error, Kind, Result};

use crate::pem;

/// The fewest bits of an RSA key that is believed.
const MIN_RSA_BITS: u32 = 2048;

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: Public,
    /// The key in DER, as `SubjectPublicKeyInfo`.
    der: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Public {
    Ecdsa(ecdsa::VerifyingKey),
    Rsa(rsa::RsaPublicKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl PublicKey {
    /// Reads a `PUBLIC KEY` (or `RSA PUBLIC KEY`) in PEM, as `cosign.pub` is.
    ///
    /// Errors: `InvalidArgument` for another sort of key, or an RSA key below 2048 bits.
    pub fn from_pem(text: &str) -> Result<Self> {
        let (label, der) = pem::decode(text)?;
        let kind = match label {
            "PUBLIC KEY" => Public::from_der(&der),
            "RSA PUBLIC KEY" => rsa::RsaPublicKey::from_pkcs1_der(&der).ok().map(Public::Rsa),
            other => return Err(Error::invalid(format!("a {other:?} is no public key"))),
        };
        let kind = kind.ok_or_else(|| {
            Error::invalid("the public key is none of ECDSA on P-256, RSA, Ed25519")
        })?;
        Self::new(kind)
    }

    fn new(kind: Public) -> Result<Self> {
        if let Public::Rsa(key) = &kind
            && key.n().bits() < MIN_RSA_BITS
        {
            let bits = key.n().bits();
            return Err(Error::invalid(format!("an RSA key of {bits} bits is too short")));
        }
        let der = match &kind {
            Public::Ecdsa(key) => key.to_public_key_der(),
            Public::Rsa(key) => key.to_public_key_der(),
            Public::Ed25519(key) => key.to_public_key_der(),
        };
        let der = der.map_err(|e| Error::caused(Kind::InvalidArgument, "public key", e))?;
        Ok(Self { kind, der: der.as_bytes().to_vec() })
    }

    /// The key in PEM.
    pub fn to_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.der)
    }

    /// What bundles call the key: its SHA-256 in base64 (cosign `pkg/cosign/bundle`).
    pub fn hint(&self) -> String {
        STANDARD.encode(Sha256::digest(&self.der))
    }

    /// What sort of key it is, in a word.
    pub fn algorithm(&self) -> &'static str {
        match self.kind {
            Public::Ecdsa(_) => "ecdsa-p256",
            Public::Rsa(_) => "rsa",
            Public::Ed25519(_) => "ed25519",
        }
    }

    /// Whether `signature` is this key's over `message`.
    ///
    /// Ed25519 is taken pure and prehashed, RSA with both paddings: cosign writes either, by its age
    /// and by where the key is kept (cosign `pkg/cosign/keys.go`, `GetDefaultLoadOptions`).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Public::Ecdsa(_) | Public::Rsa(_) => {
                self.verifies_digest(&Sha256::digest(message).into(), signature)
            }
            Public::Ed25519(key) => {
                let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else {
                    return false;
                };
                let prehashed = || Sha512::new_with_prefix(message);
                key.verify_strict(message, &signature).is_ok()
                    || key.verify_prehashed_strict(prehashed(), None, &signature).is_ok()
            }
        }
    }

    /// Whether `signature` is this key's over the message whose SHA-256 is `digest`. Of Ed25519 that
    /// cannot be told.
    pub fn verifies_digest(&self, digest: &[u8; 32], signature: &[u8]) -> bool {
        match &self.kind {
            Public::Ecdsa(key) => ecdsa::DerSignature::from_bytes(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Public::Rsa(key) => {
                let plain = pkcs1v15::VerifyingKey::<Sha256>::new(key.clone());
                let salted = pss::VerifyingKey::<Sha256>::new_with_auto_salt_len(key.clone());
                pkcs1v15::Signature::try_from(signature)
                    .is_ok_and(|it| plain.verify_prehash(digest, &it).is_ok())
                    || pss::Signature::try_from(signature)
                        .is_ok_and(|it| salted.verify_prehash(digest, &it).is_ok())
            }
            Public::Ed25519(_) => false,
        }
    }
}

impl Public {
    fn from_der(der: &[u8]) -> Option<Self> {
        let ecdsa = || ecdsa::VerifyingKey::from_public_key_der(der).ok().map(Self::Ecdsa);
        let rsa = || rsa::RsaPublicKey::from_public_key_der(der).ok().map(Self::Rsa);
        let edwards = || ed25519_dalek::VerifyingKey::from_public_key_der(der).ok();
        ecdsa().or_else(rsa).or_else(|| edwards().map(Self::Ed25519))
    }
}

/// A key that signs.
pub struct PrivateKey {
    kind: Private,
    public: PublicKey,
}

enum Private {
    Ecdsa(ecdsa::SigningKey),
    Rsa(Box<rsa::RsaPrivateKey>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

/// Nothing of the secret.
impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Makes a new key, on P-256 as cosign does.
    pub fn generate() -> Result<Self> {
        loop {
            // All but one in four billion of such numbers are keys.
            if let Ok(key) = ecdsa::SigningKey::from_slice(&sealed::random::<32>()?) {
                return Self::new(Private::Ecdsa(key));
            }
        }
    }

    /// Whether a key file has to be opened with a password.
    pub fn is_sealed(text: &str) -> bool {
        pem::decode(text).is_ok_and(|(label, _)| sealed::LABELS.contains(&label))
    }

    /// Reads a key: `cosign.key`, which `password` opens, or one in plain PEM.
    ///
    /// Takes a quarter of a second and 64 MB for one that is sealed: not for an async thread.
    /// Errors: `PermissionDenied` for a wrong password, `InvalidArgument` for another sort of key.
    pub fn from_pem(text: &str, password: &[u8]) -> Result<Self> {
        let (label, bytes) = pem::decode(text)?;
        let kind = match label {
            label if sealed::LABELS.contains(&label) => {
                Private::from_der(&sealed::open(&bytes, password)?)
            }
            "PRIVATE KEY" => Private::from_der(&bytes),
            "EC PRIVATE KEY" => {
                p256::SecretKey::from_sec1_der(&bytes).ok().map(|key| Private::Ecdsa(key.into()))
            }
            "RSA PRIVATE KEY" => rsa::RsaPrivateKey::from_pkcs1_der(&bytes)
                .ok()
                .map(|key| Private::Rsa(Box::new(key))),
            other => return Err(Error::invalid(format!("a {other:?} is no private key"))),
        };
        let unknown = || Error::invalid("the private key is none of ECDSA on P-256, RSA, Ed25519");
        Self::new(kind.ok_or_else(unknown)?)
    }

    fn new(kind: Private) -> Result<Self> {
        let public = match &kind {
            Private::Ecdsa(key) => Public::Ecdsa(*key.verifying_key()),
            Private::Rsa(key) => Public::Rsa(key.to_public_key()),
            Private::Ed25519(key) => Public::Ed25519(key.verifying_key()),
        };
        Ok(Self { kind, public: PublicKey::new(public)? })
    }

    /// The key in PEM as cosign writes it, sealed with `password`.
    ///
    /// Takes a quarter of a second and 64 MB: not for an async thread.
    pub fn to_pem(&self, password: &[u8]) -> Result<String> {
        let der = match &self.kind {
            Private::Ecdsa(key) => key.to_pkcs8_der(),
            Private::Rsa(key) => key.to_pkcs8_der(),
            Private::Ed25519(key) => key.to_pkcs8_der(),
        };
        let der = der.map_err(|e| Error::caused(Kind::Internal, "private key", e))?;
        Ok(pem::encode(sealed::LABELS[0], &sealed::seal(der.as_bytes(), password)?))
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// Signs `message` as cosign does: ECDSA in DER over SHA-256, RSA by PKCS #1 v1.5, Ed25519
    /// prehashed.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let failed = |e: rsa::signature::Error| Error::caused(Kind::Internal, "sign", e);
        Ok(match &self.kind {
            Private::Ecdsa(key) => {
                let signature: ecdsa::DerSignature = key.try_sign(message).map_err(failed)?;
                signature.as_bytes().to_vec()
            }
            Private::Rsa(key) => {
                let key = pkcs1v15::SigningKey::<Sha256>::new((**key).clone());
                key.try_sign(message).map_err(failed)?.to_vec()
            }
            Private::Ed25519(key) => {
                let prehashed = Sha512::new_with_prefix(message);
                key.sign_prehashed(prehashed, None).map_err(failed)?.to_bytes().to_vec()
            }
        })
    }
}

impl Private {
    fn from_der(der: &[u8]) -> Option<Self> {
        let ecdsa = || ecdsa::SigningKey::from_pkcs8_der(der).ok().map(Self::Ecdsa);
        let rsa = || rsa::RsaPrivateKey::from_pkcs8_der(der).ok();
        let edwards = || ed25519_dalek::SigningKey::from_pkcs8_der(der).ok();
        ecdsa()
            .or_else(|| rsa().map(|key| Self::Rsa(Box::new(key))))
            .or_else(|| edwards().map(|key| Self::Ed25519(Box::new(key))))
    }
}
