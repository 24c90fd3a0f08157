//! What a client's description says of its transport: ICE credentials, certificate and DTLS role.

use crate::control::{DtlsRole, Fingerprint, FingerprintAlgorithm};
use crate::signaling::message::{ErrorCode, Refusal};
use crate::wire::sdp::{Description, FingerprintLine, IceLines, Media, Setup};

/// The client's end of the one transport that all sections share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// A change of these asks for an ICE restart.
    pub ice: IceLines,
    /// The certificate hashes with a known function; never empty.
    pub fingerprints: Vec<Fingerprint>,
    /// As the client says.
    pub setup: Setup,
}

impl Remote {
    /// Reads it from the first section that is in use and has it: with BUNDLE the others need not
    /// repeat it (RFC 9143 §7.1.3). `None` if no audio or video section is in use.
    ///
    /// # Errors
    /// `bad-description` where a part is missing or unusable.
    pub fn read(description: &Description) -> Result<Option<Self>, Refusal> {
        let bad = |why: &'static str| Refusal::new(ErrorCode::BadDescription, why);
        let used = |s: &&crate::wire::sdp::Section| !s.rejected;
        if !description
            .sections
            .iter()
            .filter(used)
            .any(|s| matches!(s.media, Media::Rtp(_)))
        {
            return Ok(None);
        }
        let section = description
            .sections
            .iter()
            .filter(used)
            .find(|s| s.ice.is_some())
            .ok_or_else(|| bad("the description has no ice-ufrag and ice-pwd"))?;
        let ice = section
            .ice
            .clone()
            .filter(|ice| {
                is_ice_word(&ice.ufrag, UFRAG_CHARS_MIN) && is_ice_word(&ice.pwd, PWD_CHARS_MIN)
            })
            .ok_or_else(|| bad("ice-ufrag or ice-pwd are too short, too long or not printable"))?;
        let fingerprints: Vec<Fingerprint> = section
            .fingerprints
            .iter()
            .filter_map(fingerprint)
            .collect();
        if fingerprints.is_empty() {
            return Err(bad(
                "the description has no sha-256, sha-384 or sha-512 fingerprint",
            ));
        }
        let setup = section
            .setup
            .ok_or_else(|| bad("the description has no a=setup of active, passive or actpass"))?;
        Ok(Some(Self {
            ice,
            fingerprints,
            setup,
        }))
    }

    /// Which part the server plays: it waits wherever the client lets it (RFC 8842 §5.3).
    #[must_use]
    pub fn server_role(&self) -> DtlsRole {
        match self.setup {
            Setup::Active | Setup::ActPass => DtlsRole::Server,
            Setup::Passive => DtlsRole::Client,
        }
    }
}

/// RFC 8839 §5.4.
const UFRAG_CHARS_MIN: usize = 4;
const PWD_CHARS_MIN: usize = 22;
const ICE_CHARS_MAX: usize = 256;

fn is_ice_word(word: &str, min: usize) -> bool {
    (min..=ICE_CHARS_MAX).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic())
}

fn fingerprint(line: &FingerprintLine) -> Option<Fingerprint> {
    let (algorithm, len) = match line.algorithm.as_str() {
        "sha-256" => (FingerprintAlgorithm::Sha256, 32),
        "sha-384" => (FingerprintAlgorithm::Sha384, 48),
        "sha-512" => (FingerprintAlgorithm::Sha512, 64),
        _ => return None,
    };
    (line.digest.len() == len).then(|| Fingerprint {
        algorithm,
        digest: line.digest.clone(),
    })
}

/// The server's own certificate hash as a line.
#[must_use]
pub fn fingerprint_line(fingerprint: &Fingerprint) -> FingerprintLine {
    FingerprintLine {
        algorithm: match fingerprint.algorithm {
            FingerprintAlgorithm::Sha256 => "sha-256",
            FingerprintAlgorithm::Sha384 => "sha-384",
            FingerprintAlgorithm::Sha512 => "sha-512",
        }
        .to_owned(),
        digest: fingerprint.digest.clone(),
    }
}
