// SPDX-License-Identifier: Apache-2.0
//! Both directions against openssl, for each sort of key.
use std::{path::Path, process::Command};

use trust::{PrivateKey, PublicKey};

fn openssl(folder: &Path, words: &str) {
    let output = Command::new("openssl")
        .args(words.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words}: {said}");
}

struct Keys {
    folder: tempfile::TempDir,
    private: PrivateKey,
    public: PublicKey,
}

/// A key that openssl made, and a message.
fn make(words: &str) -> Keys {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    openssl(path, &format!("genpkey {words} -out key.pem"));
    openssl(path, "pkey -in key.pem -pubout -out key.pub");
    fs_err::write(path.join("message"), "message").unwrap();
    let read = |name| fs_err::read_to_string(path.join(name)).unwrap();
    let private = PrivateKey::from_pem(&read("key.pem"), b"").unwrap();
    let public = PublicKey::from_pem(&read("key.pub")).unwrap();
    assert_eq!(private.public(), public);
    Keys { folder, private, public }
}

impl Keys {
    /// Whether we take what openssl signs, and only that.
    fn takes(&self, sign: &str) {
        openssl(self.folder.path(), sign);
        let mut signature = fs_err::read(self.folder.path().join("sig")).unwrap();
        assert!(self.public.verifies(b"message", &signature), "{sign}");
        assert!(!self.public.verifies(b"massage", &signature), "{sign}");
        *signature.last_mut().unwrap() ^= 1;
        assert!(!self.public.verifies(b"message", &signature), "{sign}");
    }

    /// Has openssl verify what we sign.
    fn gives(&self, verify: &str) {
        let signature = self.private.sign(b"message").unwrap();
        fs_err::write(self.folder.path().join("sig"), signature).unwrap();
        openssl(self.folder.path(), verify);
    }
}

#[test]
fn ecdsa_is_openssls() {
    let keys = make("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    keys.takes("dgst -sha256 -sign key.pem -out sig message");
    keys.gives("dgst -sha256 -verify key.pub -signature sig message");
}

#[test]
fn rsa_is_openssls_with_both_paddings() {
    let keys = make("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    keys.takes("dgst -sha256 -sign key.pem -out sig message");
    let pss = "dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen";
    keys.takes(&format!("{pss}:digest -sign key.pem -out sig message"));
    keys.takes(&format!("{pss}:max -sign key.pem -out sig message"));
    keys.gives("dgst -sha256 -verify key.pub -signature sig message");
}

#[test]
fn ed25519_is_openssls_when_it_is_pure() {
    let keys = make("-algorithm ed25519");
    keys.takes("pkeyutl -sign -inkey key.pem -rawin -in message -out sig");
    assert!(keys.public.verifies(b"message", &keys.private.sign(b"message").unwrap()));
}

#[test]
fn a_key_comes_back_from_its_file() {
    let key = PrivateKey::generate().unwrap();
    let sealed = key.to_pem(b"secret").unwrap();
    assert!(sealed.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
    assert_eq!(PrivateKey::from_pem(&sealed, b"secret").unwrap().public(), key.public());
    assert!(PrivateKey::from_pem(&sealed, b"Secret").is_err());
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (words, why) in [
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "too short"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "none of"),
        ("-algorithm x25519", "none of"),
    ] {
        openssl(folder.path(), &format!("genpkey {words} -out key.pem"));
        openssl(folder.path(), "pkey -in key.pem -pubout -out key.pub");
        let text = fs_err::read_to_string(folder.path().join("key.pub")).unwrap();
        let error = PublicKey::from_pem(&text).unwrap_err().to_string();
        assert!(error.contains(why), "{words}: {error}");
    }
}
