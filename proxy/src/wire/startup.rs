//! The first packet of a connection: a length, then a version or request code, then its body.
//! It is the only message without a type byte.

use super::{CANCEL_REQUEST, GSSENC_REQUEST, SSL_REQUEST};

/// Postgres' MAX_STARTUP_PACKET_LENGTH (pqcomm.h), length word included.
pub(crate) const STARTUP_BYTES_MAX: usize = 10_000;
/// The key of a CancelRequest: 4 bytes in protocol 3.0, up to 256 in 3.2.
const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// What a client may open a connection with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstPacket {
    Ssl,
    GssEnc,
    Cancel {
        pid: i32,
        key: Vec<u8>,
    },
    Startup(StartupPacket),
    /// A protocol we do not speak.
    Unsupported {
        major: u16,
        minor: u16,
    },
}

/// StartupMessage of protocol 3.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StartupPacket {
    pub(crate) minor: u16,
    pub(crate) parameters: Parameters,
}

/// Startup parameters in the order they came, as raw bytes: their encoding is the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters(pub(crate) Vec<(Vec<u8>, Vec<u8>)>);

/// The packet breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl FirstPacket {
    /// Decodes a packet without its length word.
    pub(crate) fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (code, body) = word(packet).ok_or(Malformed("invalid length of startup packet"))?;
        match code {
            SSL_REQUEST => Ok(Self::Ssl),
            GSSENC_REQUEST => Ok(Self::GssEnc),
            CANCEL_REQUEST => {
                let (pid, key) = word(body).ok_or(Malformed("invalid length of cancel request"))?;
                if !CANCEL_KEY_BYTES.contains(&key.len()) {
                    return Err(Malformed("invalid length of cancel request"));
                }
                Ok(Self::Cancel { pid: pid.cast_signed(), key: key.to_vec() })
            }
            _ => {
                let [major, minor] = [code >> 16, code & 0xffff].map(|half| {
                    u16::try_from(half).expect("half of a 32-bit word fits in 16 bits")
                });
                if major != 3 {
                    return Ok(Self::Unsupported { major, minor });
                }
                let parameters = Parameters::decode(body)?;
                Ok(Self::Startup(StartupPacket { minor, parameters }))
            }
        }
    }
}

impl StartupPacket {
    /// The minor version that both sides speak: 3.2 is the newest we know.
    pub(crate) fn minor_spoken(&self) -> u16 {
        self.minor.min(2)
    }

    /// Protocol options we do not know, which the client must be told about.
    pub(crate) fn unknown_options(&self) -> Vec<&[u8]> {
        let names = self.parameters.0.iter().map(|(name, _)| name.as_slice());
        names.filter(|name| name.starts_with(b"_pq_.")).collect()
    }
}

impl Parameters {
    /// The last value given for a name, as Postgres takes it.
    pub(crate) fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    fn decode(mut body: &[u8]) -> Result<Self, Malformed> {
        const LAYOUT: Malformed =
            Malformed("invalid startup packet layout: expected terminator as last byte");
        let mut parameters = Vec::new();
        loop {
            let (name, rest) = cstring(body).ok_or(LAYOUT)?;
            if name.is_empty() {
                return if rest.is_empty() { Ok(Self(parameters)) } else { Err(LAYOUT) };
            }
            let (value, rest) = cstring(rest).ok_or(LAYOUT)?;
            parameters.push((name.to_vec(), value.to_vec()));
            body = rest;
        }
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    fn startup_bytes() -> Vec<u8> {
        let mut bytes = vec![0, 3, 0, 0];
        bytes.extend_from_slice(b"user\0app\0database\0shop\0\0");
        bytes
    }

    #[test]
    fn reads_parameters_in_order() {
        let FirstPacket::Startup(packet) = FirstPacket::decode(&startup_bytes()).unwrap() else {
            panic!("not a startup packet")
        };
        assert_eq!(packet.parameters.value(b"user"), Some(&b"app"[..]));
        assert_eq!(packet.parameters.value(b"database"), Some(&b"shop"[..]));
        assert_eq!(packet.parameters.value(b"options"), None);
    }

    #[test]
    fn refuses_every_truncation() {
        let bytes = startup_bytes();
        for end in 0..bytes.len() {
            assert!(FirstPacket::decode(&bytes[..end]).is_err(), "{end}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(FirstPacket::decode(&longer).is_err());
    }

    #[test]
    fn knows_requests_and_foreign_versions() {
        let decode = |code: u32| FirstPacket::decode(&code.to_be_bytes());
        assert_eq!(decode(SSL_REQUEST), Ok(FirstPacket::Ssl));
        assert_eq!(decode(GSSENC_REQUEST), Ok(FirstPacket::GssEnc));
        assert_eq!(decode(2 << 16), Ok(FirstPacket::Unsupported { major: 2, minor: 0 }));
        assert!(decode(CANCEL_REQUEST).is_err());
    }

    #[test]
    fn cancel_keys_of_every_legal_length() {
        for (length, legal) in [(0, false), (3, false), (4, true), (32, true), (256, true)] {
            let mut bytes = CANCEL_REQUEST.to_be_bytes().to_vec();
            bytes.extend_from_slice(&7_i32.to_be_bytes());
            bytes.resize(bytes.len() + length, 1);
            assert_eq!(FirstPacket::decode(&bytes).is_ok(), legal, "{length}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = StdRng::seed_from_u64(5);
        for _ in 0..20_000 {
            let mut bytes = vec![0; (random.next_u32() % 64) as usize];
            random.fill_bytes(&mut bytes);
            if random.next_u32().is_multiple_of(2) && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[0, 3, 0, 0]);
            }
            let _ = FirstPacket::decode(&bytes);
        }
    }
}
