//! TLS as clients of registries want it: authorities of the system and further ones, or none at all.

use super::SetupError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files with their contents.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// Reads all of `paths`.
pub fn read(paths: &[PathBuf]) -> Result<Files, SetupError> {
    let one = |path: &PathBuf| match std::fs::read(path) {
        Ok(bytes) => Ok((path.clone(), bytes)),
        Err(source) => Err(SetupError::ReadCertificates { path: path.clone(), source }),
    };
    paths.iter().map(one).collect()
}

/// A certificate of ours and its key, both in PEM. Shown by no output.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    certificates: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
}

impl Identity {
    /// Reads both files.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, SetupError> {
        let one = |path: &Path| match std::fs::read(path) {
            Ok(bytes) => Ok((path.to_path_buf(), bytes)),
            Err(source) => Err(SetupError::ReadCertificates { path: path.to_path_buf(), source }),
        };
        Ok(Self { certificates: one(certificates)?, key: one(key)? })
    }

    /// The chain, its own certificate first, and the key.
    fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SetupError> {
        let (path, pem) = &self.certificates;
        let chain = certificates(path, pem)?;
        if chain.is_empty() {
            return Err(SetupError::Certificates { path: path.clone() });
        }
        let (path, pem) = &self.key;
        let key = PrivateKeyDer::from_pem_slice(pem).ok();
        Ok((chain, key.ok_or_else(|| SetupError::Key { path: path.clone() })?))
    }
}

/// What to trust: any certificate, or those of the system's authorities and of those in `files`, in PEM.
/// A system without authorities is none to complain about: https fails there, and plain http needs none. Servers that ask who we are get
/// `identity`.
pub fn config(
    skip_verify: bool,
    files: &Files,
    identity: Option<&Identity>,
) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for (path, pem) in files {
        let own = certificates(path, pem)?;
        if own.is_empty() || roots.add_parsable_certificates(own).1 > 0 {
            return Err(SetupError::Certificates { path: path.clone() });
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| SetupError::Tls { source })?;
    let builder = if skip_verify {
        let anyone = Arc::new(Anyone(provider.signature_verification_algorithms));
        builder.dangerous().with_custom_certificate_verifier(anyone)
    } else {
        let own = rustls_native_certs::load_native_certs().certs;
        let (_added, _unusable) = roots.add_parsable_certificates(own);
        builder.with_root_certificates(roots)
    };
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = identity.parse()?;
    builder.with_client_auth_cert(chain, key).map_err(|source| SetupError::Tls { source })
}

/// All certificates in a PEM file.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().ok_or_else(|| SetupError::Certificates { path: path.to_path_buf() })
}

/// Believes every certificate; whoever shows it must still hold its key.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_certificates_are_refused() {
        let path = PathBuf::from("/none/ca.pem");
        assert!(matches!(read(std::slice::from_ref(&path)), Err(SetupError::ReadCertificates { .. })));
        for wrong in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let refused = config(true, &vec![(path.clone(), wrong.into())], None);
            assert!(matches!(refused, Err(SetupError::Certificates { .. })), "{wrong}");
        }
        assert!(config(false, &vec![], None).is_ok() && config(true, &vec![], None).is_ok());
    }

    #[test]
    fn a_certificate_of_ours_needs_its_key() {
        let of = |certificates: &str, key: &str| Identity {
            certificates: ("c".into(), certificates.into()),
            key: ("k".into(), key.into()),
        };
        let refused = |identity: &Identity| config(true, &vec![], Some(identity)).unwrap_err().to_string();
        assert_eq!(refused(&of("", "")), "c has no certificate in PEM, or a damaged one");
        let chain = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(refused(&of(chain, "hidden")), "k has no private key in PEM, or a damaged one");
        let missing = Identity::read(Path::new("/none/c"), Path::new("/none/k"));
        assert!(matches!(missing.err(), Some(SetupError::ReadCertificates { .. })));
    }
}
