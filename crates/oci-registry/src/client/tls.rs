//! TLS as clients of registries want it: authorities of the system and further ones, or none at all.

use super::SetupError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
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

/// What to trust: any certificate, or those of the system's authorities and of those in `files`, in PEM.
/// A system without authorities is none to complain about: https fails there, and plain http needs none.
pub fn config(skip_verify: bool, files: &Files) -> Result<ClientConfig, SetupError> {
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
    if skip_verify {
        let anyone = Arc::new(Anyone(provider.signature_verification_algorithms));
        return Ok(builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth());
    }
    let (_added, _unusable) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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
            let refused = config(true, &vec![(path.clone(), wrong.into())]);
            assert!(matches!(refused, Err(SetupError::Certificates { .. })), "{wrong}");
        }
        assert!(config(false, &vec![]).is_ok() && config(true, &vec![]).is_ok());
    }
}
