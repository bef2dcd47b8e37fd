//! Certificates and private keys in PEM, checked before TLS uses them, so that an error says what is wrong with a file.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
#[cfg(feature = "serve")]
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{Error, PemObject as _};
#[cfg(feature = "serve")]
use rustls::sign::CertifiedKey;

/// Fault of a file with certificates or with a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The file is not PEM, or has blocks of other kinds only.
    #[error("no certificate found{}; expected PEM with a line -----BEGIN CERTIFICATE-----", beside(found))]
    NoCertificate {
        /// Kinds of the blocks in the file.
        found: String,
    },
    /// No certificate in the file can be decoded.
    #[error("the certificate is damaged")]
    BadCertificate,
    /// The file is not PEM, or has blocks of other kinds only.
    #[error("no private key found{}; expected PEM with a line -----BEGIN PRIVATE KEY-----", beside(found))]
    NoKey {
        /// Kinds of the blocks in the file.
        found: String,
    },
    /// The key has a passphrase, for which a server cannot ask.
    #[error("the private key is encrypted; write it without a passphrase: openssl pkey -in FILE -out NEW_FILE")]
    EncryptedKey,
    /// The key is damaged, of an unknown kind, or cannot be compared with the certificate.
    #[error("not usable as the private key of the certificate: {reason}")]
    BadKey {
        /// Fault of the key.
        reason: String,
    },
    /// The key is that of another certificate.
    #[error("not the private key of the certificate")]
    OtherKey,
    /// A block is incomplete or not in Base64.
    #[error("damaged PEM: {reason}")]
    Damaged {
        /// The damage.
        reason: String,
    },
}

/// Decodes the certificates of a file; at least one is valid.
///
/// # Errors
/// If the file has no certificate, or none that can be decoded.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(damage)?;
    if certificates.is_empty() {
        return Err(PemError::NoCertificate { found: kinds(pem) });
    }
    let is_valid = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    if certificates.iter().any(is_valid) { Ok(certificates) } else { Err(PemError::BadCertificate) }
}

/// Checks that a file holds the private key of the first of `certificates`.
///
/// # Errors
/// If it holds no key, an encrypted or damaged one, or that of another certificate.
#[cfg(feature = "serve")]
pub(crate) fn check_key(pem: &[u8], certificates: Vec<CertificateDer<'static>>) -> Result<(), PemError> {
    let is_encrypted = String::from_utf8_lossy(pem).contains("ENCRYPTED");
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|err| match err {
        _ if is_encrypted => PemError::EncryptedKey,
        Error::NoItemsFound => PemError::NoKey { found: kinds(pem) },
        err => damage(err),
    })?;
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(certificates, key, &provider) {
        Ok(_) => Ok(()),
        Err(_) if is_encrypted => Err(PemError::EncryptedKey),
        Err(rustls::Error::InconsistentKeys(_)) => Err(PemError::OtherKey),
        Err(err) => Err(PemError::BadKey { reason: err.to_string() }),
    }
}

/// Kinds of the blocks in a file, such as `PRIVATE KEY`; empty if it is not PEM.
fn kinds(pem: &[u8]) -> String {
    let text = String::from_utf8_lossy(pem);
    let mut kinds: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")).collect();
    kinds.dedup();
    kinds.join(", ")
}

/// Part of an error about a file with blocks of other kinds.
fn beside(found: &str) -> String {
    if found.is_empty() { String::new() } else { format!(", but {found}") }
}

fn damage(error: Error) -> PemError {
    let reason = match error {
        Error::MissingSectionEnd { end_marker } => {
            format!("no line -----END {}-----", String::from_utf8_lossy(&end_marker))
        }
        Error::IllegalSectionStart { line } => format!("invalid line {:?}", String::from_utf8_lossy(&line)),
        error => error.to_string(),
    };
    PemError::Damaged { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key.
    fn pair() -> (String, String) {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (certified.cert.pem(), certified.signing_key.serialize_pem())
    }

    /// A block whose content is valid Base64.
    fn block(kind: &str) -> String {
        format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n")
    }

    fn refused(pem: &str) -> String {
        certificates(pem.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn files_without_a_valid_certificate_are_refused_with_what_they_hold() {
        let (certificate, key) = pair();
        assert_eq!(certificates(certificate.as_bytes()).unwrap().len(), 1);
        // One that is valid does, as in the bundle of a system.
        let damaged = block("CERTIFICATE");
        for bundle in [format!("{damaged}{certificate}"), format!("{certificate}{damaged}")] {
            assert_eq!(certificates(bundle.as_bytes()).unwrap().len(), 2);
        }
        assert!(refused("").starts_with("no certificate found; expected PEM"), "{}", refused(""));
        assert!(refused("hostname\n").starts_with("no certificate found;"));
        assert!(refused(&key).starts_with("no certificate found, but PRIVATE KEY;"), "{}", refused(&key));
        assert_eq!(refused(&damaged), "the certificate is damaged");
        let cut = certificate.replace("-----END CERTIFICATE-----", "");
        assert_eq!(refused(&cut), "damaged PEM: no line -----END CERTIFICATE-----");
    }

    #[cfg(feature = "serve")]
    #[test]
    fn keys_are_refused_unless_they_are_those_of_the_certificate() {
        let (certificate, key) = pair();
        let refused = |key: &str| {
            let certificates = certificates(certificate.as_bytes()).unwrap();
            check_key(key.as_bytes(), certificates).err().map(|err| err.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(&key), "");
        assert_eq!(refused(&pair().1), "not the private key of the certificate");
        assert!(refused(&certificate).starts_with("no private key found, but CERTIFICATE;"));
        assert!(refused("").starts_with("no private key found;"));
        assert!(refused(&block("PRIVATE KEY")).starts_with("not usable as the private key"));
        let headers = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,DF82\n\nAAAA\n\
                       -----END RSA PRIVATE KEY-----\n";
        for encrypted in [block("ENCRYPTED PRIVATE KEY"), headers.to_owned()] {
            assert!(refused(&encrypted).starts_with("the private key is encrypted;"), "{}", refused(&encrypted));
        }
    }

    #[cfg(feature = "serve")]
    #[test]
    fn inputs_of_the_fuzzer_are_read_or_refused_in_one_line() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/pem");
        let mut num_refused = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let read = certificates(&bytes).and_then(|certificates| check_key(&bytes, certificates));
            if let Err(error) = read {
                assert!(!error.to_string().contains('\n'), "{error}");
                num_refused += 1;
            }
        }
        assert!(num_refused > 0, "no input is refused");
    }
}
