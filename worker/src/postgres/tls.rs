//! TLS to a database: whom to believe, by libpq's levels.

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_postgres::{
    Socket,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::AddressError;

/// Makes TLS connections, or none where the configuration says so.
#[derive(Clone)]
pub struct Tls {
    connector: MakeRustlsConnect,
    checks: &'static str,
}

/// Whose certificates count.
pub(super) enum Roots {
    /// Nobody's.
    None,
    /// Those that the system trusts.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

impl Tls {
    /// For a configuration that disables TLS: never asked for anything.
    pub fn unused() -> Self {
        let config = client(Arc::new(OwnVerifier { provider: Arc::new(ring::default_provider()), trusted: None }));
        Self { connector: MakeRustlsConnect::new(config), checks: "no TLS" }
    }

    /// Encrypts, and believes anyone.
    pub(super) fn unverified() -> Result<Self, AddressError> {
        Ok(Self { checks: "encrypted, unverified", ..Self::unused() })
    }

    /// Encrypts, and asks for a certificate from one of the roots; for the host's name, too, where `name` says so.
    pub(super) fn verified(roots: Roots, name: bool) -> Result<Self, AddressError> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match roots {
            Roots::File(path) => {
                let trusted = Some(Trusted { name, ..Trusted::read(path)? });
                Arc::new(OwnVerifier { provider, trusted })
            }
            Roots::System | Roots::None => Arc::new(
                rustls_platform_verifier::Verifier::new(provider)
                    .map_err(|error| AddressError::Tls(format!("{error}; name the CA's file in sslrootcert")))?,
            ),
        };
        let checks = if name { "certificate and name" } else { "certificate" };
        Ok(Self { connector: MakeRustlsConnect::new(client(verifier)), checks })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.checks)
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = <<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect as TlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        MakeTlsConnect::<Socket>::make_tls_connect(&mut self.connector, domain).map_err(|never| match never {})
    }
}

fn client(verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    // The provider is named, as a process-wide one may be another library's.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap_or_else(|_| unreachable!("ring has suites for TLS 1.2 and 1.3"))
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // What Postgres 17 asks for where TLS starts without a request; others ignore it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    config
}

/// Certificates of a file.
#[derive(Debug)]
struct Trusted {
    roots: RootCertStore,
    /// The same, as they are: a server's self-signed certificate may be its own root.
    certificates: Vec<CertificateDer<'static>>,
    /// Whether the name counts, too.
    name: bool,
}

impl Trusted {
    fn read(path: PathBuf) -> Result<Self, AddressError> {
        let wrong = |reason: String| AddressError::RootCertificate { path: path.clone(), reason };
        let certificates = CertificateDer::pem_file_iter(&path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("it holds no certificate in PEM form".to_owned()));
        }
        Ok(Self { roots, certificates, name: false })
    }
}

/// Checks what rustls's own verifiers cannot: nothing, or a certificate without its name.
#[derive(Debug)]
struct OwnVerifier {
    provider: Arc<CryptoProvider>,
    /// None: anyone is believed.
    trusted: Option<Trusted>,
}

impl ServerCertVerifier for OwnVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&certificate, &trusted.roots, intermediates, now, algorithms) {
            // Self-signed with the CA's flag, as `openssl req -x509` makes them.
            Err(Error::InvalidCertificate(problem))
                if !matches!(problem, CertificateError::Expired | CertificateError::ExpiredContext { .. })
                    && trusted.certificates.iter().any(|one| one == end_entity) => {}
            other => other?,
        }
        if trusted.name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
