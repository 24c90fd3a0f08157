//! The server's side of every DTLS handshake: its certificate, and what it is ready to agree to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::error::Error;

use crate::control::{Fingerprint, FingerprintAlgorithm, SrtpProfile};

/// Why the server's DTLS identity could not be made.
#[derive(Debug)]
pub enum TransportError {
    /// The key or certificate could not be generated.
    Certificate(Error),
    /// `rtc-dtls` refused the configuration.
    Configuration(Error),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "cannot make a certificate: {error}"),
            Self::Configuration(error) => write!(f, "cannot configure DTLS: {error}"),
        }
    }
}

impl std::error::Error for TransportError {}

/// The server's certificate with its key, made anew at each start (RFC 8827 §6.5: one is enough for
/// all peers of one origin), and ready-made configurations, shared by all peers.
pub struct DtlsIdentity {
    fingerprint: Fingerprint,
    /// One for each profile, so that `rtc-dtls` cannot choose another.
    servers: [(SrtpProfile, Arc<HandshakeConfig>); PREFERENCE.len()],
    client: Arc<HandshakeConfig>,
}

impl DtlsIdentity {
    /// Makes an ECDSA P-256 key and a self-signed certificate for it.
    ///
    /// # Errors
    /// [`TransportError`], if the system has no randomness or `rtc-dtls` lacks an algorithm.
    pub fn generate() -> Result<Self, TransportError> {
        let provider: Arc<dyn RTCCryptoProvider> = Arc::new(RingProvider::new());
        let certificate =
            Certificate::generate_self_signed(vec![SERVER_NAME.to_owned()], provider.crypto())
                .map_err(TransportError::Certificate)?;
        let fingerprint = Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: hash(FingerprintAlgorithm::Sha256, &certificate.certificate[0]),
        };
        let server = |profile| -> Result<_, TransportError> {
            let config = configuration(&provider, &certificate, &[profile])
                .with_cipher_suites(vec![CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256])
                .build(false, None)
                .map_err(TransportError::Configuration)?;
            Ok((profile, Arc::new(config)))
        };
        let client = configuration(&provider, &certificate, &PREFERENCE)
            .with_cipher_suites(vec![
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                // For a peer whose own certificate is RSA.
                CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
            ])
            .build(true, None)
            .map_err(TransportError::Configuration)?;
        Ok(Self {
            fingerprint,
            servers: [
                server(PREFERENCE[0])?,
                server(PREFERENCE[1])?,
                server(PREFERENCE[2])?,
            ],
            client: Arc::new(client),
        })
    }

    /// The certificate's SHA-256 hash, for our descriptions.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What to answer a client with that offers these profiles: the best of them. `None` where
    /// there is none in common.
    pub(crate) fn server(&self, offered: &[SrtpProfile]) -> Option<Arc<HandshakeConfig>> {
        let mut servers = self.servers.iter();
        let (_, config) = servers.find(|(profile, _)| offered.contains(profile))?;
        Some(config.clone())
    }

    /// What to call a server with.
    pub(crate) fn client(&self) -> Arc<HandshakeConfig> {
        self.client.clone()
    }
}

impl fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsIdentity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// What all of our handshakes have in common.
pub(crate) fn configuration(
    provider: &Arc<dyn RTCCryptoProvider>,
    certificate: &Certificate,
    profiles: &[SrtpProfile],
) -> ConfigBuilder {
    ConfigBuilder::default()
        .with_crypto_provider(provider.clone())
        .with_certificates(vec![certificate.clone()])
        .with_srtp_protection_profiles(profiles.iter().map(|p| protection_profile(*p)).collect())
        .with_client_auth(ClientAuthType::RequireAnyClientCert)
        // No chain leads to a self-signed certificate: the fingerprint is compared instead (RFC
        // 8827 §6.5), above. That its owner holds the key, rtc-dtls does check.
        .with_insecure_skip_verify(true)
        // Without it (RFC 7627) the exported keys are not bound to the certificates, and
        // rtc-dtls, which does not compare the client's Finished with the transcript, would not
        // notice a changed one. Every browser and OpenSSL since 1.1 has it.
        .with_extended_master_secret(ExtendedMasterSecretType::Require)
        .with_server_name(SERVER_NAME.to_owned())
        .with_flight_interval(FLIGHT_INTERVAL)
}

/// What `rtc-dtls` calls a profile.
pub(crate) fn protection_profile(profile: SrtpProfile) -> SrtpProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        SrtpProfile::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        SrtpProfile::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    }
}

/// The hash that a fingerprint of this certificate (DER) holds.
pub(crate) fn hash(algorithm: FingerprintAlgorithm, certificate: &[u8]) -> Vec<u8> {
    let algorithm = match algorithm {
        FingerprintAlgorithm::Sha256 => &digest::SHA256,
        FingerprintAlgorithm::Sha384 => &digest::SHA384,
        FingerprintAlgorithm::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, certificate).as_ref().to_vec()
}

/// Best first: GCM-128 costs a third of SHA1_80 here (DESIGN.md §3).
pub(crate) const PREFERENCE: [SrtpProfile; 3] = [
    SrtpProfile::AeadAes128Gcm,
    SrtpProfile::AeadAes256Gcm,
    SrtpProfile::Aes128CmSha1_80,
];
/// When a flight is first repeated. RFC 6347 §4.2.4.1 says 1 s and lets time-sensitive applications
/// take less; libwebrtc begins with 50 ms.
pub(crate) const FLIGHT_INTERVAL: Duration = Duration::from_millis(250);
/// In our certificate and, where we are the client, in `server_name`; nobody looks at it.
const SERVER_NAME: &str = "shardcast";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_has_its_own_fingerprint() {
        let identity = DtlsIdentity::generate().unwrap();
        assert_eq!(identity.fingerprint().digest.len(), 32);
        let other = DtlsIdentity::generate().unwrap();
        assert_ne!(identity.fingerprint(), other.fingerprint());
    }

    #[test]
    fn hashes_are_those_of_fips_180_4() {
        let cases = [
            (FingerprintAlgorithm::Sha256, 32, [0xba, 0x78, 0x16, 0xbf]),
            (FingerprintAlgorithm::Sha384, 48, [0xcb, 0x00, 0x75, 0x3f]),
            (FingerprintAlgorithm::Sha512, 64, [0xdd, 0xaf, 0x35, 0xa1]),
        ];
        for (algorithm, len, first) in cases {
            let digest = hash(algorithm, b"abc");
            assert_eq!((digest.len(), &digest[..4]), (len, &first[..]));
        }
    }

    #[test]
    fn only_known_profiles_are_answered() {
        let identity = DtlsIdentity::generate().unwrap();
        assert!(identity.server(&[SrtpProfile::Aes128CmSha1_80]).is_some());
        assert!(identity.server(&[]).is_none());
    }
}
