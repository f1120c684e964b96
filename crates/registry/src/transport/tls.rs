// SPDX-License-Identifier: Apache-2.0
use std::{collections::HashSet, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use types::{Digest, Error, Kind, Result};

use crate::{Identity, Tls};

/// The TLS configuration that `tls` describes.
pub(super) fn config(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS versions", error))?;
    let own = Arc::clone(&provider);
    let verifier = verifier(tls, provider)?;
    let builder = match verifier {
        Some(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier),
        // Nobody is believed, but plain text still works.
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    if tls.identities.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let ours = tls.identities.iter().map(|identity| certified(identity, &own));
    let ours = Identities(ours.collect::<Result<_>>()?);
    Ok(builder.with_client_cert_resolver(Arc::new(ours)))
}

/// Our certificates. A host names the authorities that it trusts: the certificate that has one of
/// their names in it, as its issuer, is shown; the first one to a host that names none.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|it| it.key.choose_scheme(schemes).is_some());
        let is_signed_by = |key: &CertifiedKey| {
            key.cert.iter().any(|certificate| authorities.iter().any(|it| holds(certificate, it)))
        };
        usable().find(|key| is_signed_by(key)).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Whether a certificate has a name in it. Both are DER, where equal names are equal bytes.
fn holds(certificate: &[u8], name: &[u8]) -> bool {
    !name.is_empty() && certificate.windows(name.len()).any(|window| window == name)
}

fn certified(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
    let (chain, key) = parse(identity)?;
    let error = |error| bad("failed to load X509 key pair", error);
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(error)
}

/// What believes in servers as `tls` says; `None` when there is nobody to believe in.
fn verifier(
    tls: &Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ServerCertVerifier>>> {
    if tls.skip_verify {
        return Ok(Some(Arc::new(Credulous { provider })));
    }
    let authorities = authorities(&tls.authorities)?;
    if authorities.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Anchored::new(provider, authorities)?)))
}

/// The authorities of the system (of `SSL_CERT_FILE`, if set), and `further` ones.
fn authorities(further: &[impl AsRef<[u8]>]) -> Result<Vec<CertificateDer<'static>>> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    let mut all = native.certs;
    for pem in further {
        for certificate in CertificateDer::pem_slice_iter(pem.as_ref()) {
            all.push(certificate.map_err(|error| bad("unable to load CA cert", error))?);
        }
    }
    Ok(all)
}

fn parse(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let error = |error| bad("failed to load X509 key pair", error);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(error)?;
    Ok((chain.map_err(error)?, key))
}

fn bad(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::caused(Kind::InvalidArgument, what, source)
}

/// Believes those for whom an authority vouches, and the authorities themselves.
///
/// Private registries often show a certificate that signed itself and is marked as an authority.
/// Go takes it when it is among the trusted ones, webpki never does.
#[derive(Debug)]
struct Anchored {
    chains: Arc<WebPkiServerVerifier>,
    anchors: HashSet<Digest>,
}

impl Anchored {
    fn new(provider: Arc<CryptoProvider>, all: Vec<CertificateDer<'static>>) -> Result<Self> {
        let anchors = all.iter().map(Digest::of).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(all);
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| bad("certificate authorities", error))?;
        Ok(Self { chains, anchors })
    }
}

impl ServerCertVerifier for Anchored {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let checked = self.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match checked {
            // The dates have been checked before: they have errors of their own.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.anchors.contains(&Digest::of(end_entity)) =>
            {
                verify_server_name(&end_entity.try_into()?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Believes whoever answers, but still checks that they hold the key that they show.
#[derive(Debug)]
struct Credulous {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
