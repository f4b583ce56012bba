//! Messages that we write. Each function appends one message to a buffer, so that messages which
//! belong together leave in one write.

use super::CANCEL_REQUEST;
use super::skim::TransactionStatus;
use super::startup::Parameters;
use crate::refusal::Refusal;

/// ErrorResponse with S, V, C, M and what else is known.
pub(crate) fn refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    let position = refusal.position.map(|position| position.to_string());
    let severity = Some(refusal.severity.as_str());
    let fields = [
        (b'S', severity),
        (b'V', severity),
        (b'C', Some(refusal.sqlstate)),
        (b'M', Some(refusal.message.as_str())),
        (b'D', refusal.detail.as_deref()),
        (b'H', refusal.hint.as_deref()),
        (b'P', position.as_deref()),
    ];
    message(out, b'E', |out| put_fields(out, &fields));
}

/// NoticeResponse of level NOTICE.
pub(crate) fn notice(out: &mut Vec<u8>, text: &str) {
    let severity = Some("NOTICE");
    let fields = [(b'S', severity), (b'V', severity), (b'C', Some("00000")), (b'M', Some(text))];
    message(out, b'N', |out| put_fields(out, &fields));
}

/// AuthenticationSASL with the mechanisms we offer, best first.
pub(crate) fn auth_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&10_u32.to_be_bytes());
        for mechanism in mechanisms {
            put_cstring(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub(crate) fn auth_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&11_u32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub(crate) fn auth_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&12_u32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// AuthenticationOk.
pub(crate) fn auth_ok(out: &mut Vec<u8>) {
    message(out, b'R', |out| out.extend_from_slice(&0_u32.to_be_bytes()));
}

/// NegotiateProtocolVersion: the version we speak and the options we do not know. The version is
/// a full one (3 << 16 | minor), as Postgres sends it, whatever the manual says.
pub(crate) fn negotiate_version(out: &mut Vec<u8>, minor: u16, unknown_options: &[&[u8]]) {
    message(out, b'v', |out| {
        out.extend_from_slice(&(3 << 16 | u32::from(minor)).to_be_bytes());
        let count = u32::try_from(unknown_options.len());
        let count = count.expect("a startup packet holds fewer than 10000 options");
        out.extend_from_slice(&count.to_be_bytes());
        for option in unknown_options {
            put_cstring(out, option);
        }
    });
}

/// BackendKeyData: 4 bytes of key in protocol 3.0, 32 in 3.2.
pub(crate) fn backend_key_data(out: &mut Vec<u8>, pid: i32, key: &[u8]) {
    message(out, b'K', |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// ParameterStatus.
pub(crate) fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        put_cstring(out, name.as_bytes());
        put_cstring(out, value.as_bytes());
    });
}

/// ReadyForQuery.
pub(crate) fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, b'Z', |out| out.push(status.byte()));
}

/// StartupMessage of protocol 3.0, towards a compute.
pub(crate) fn startup(out: &mut Vec<u8>, parameters: &Parameters) {
    untyped(out, |out| {
        out.extend_from_slice(&(3_u32 << 16).to_be_bytes());
        for (name, value) in &parameters.0 {
            put_cstring(out, name);
            put_cstring(out, value);
        }
        out.push(0);
    });
}

/// CancelRequest, towards a compute.
pub(crate) fn cancel_request(out: &mut Vec<u8>, pid: i32, key: &[u8]) {
    untyped(out, |out| {
        out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untyped(out, body);
}

fn untyped(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).expect("a message of ours is below 4 GiB");
    if let Some(word) = out.get_mut(start..start + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &[(u8, Option<&str>)]) {
    for (code, value) in fields {
        if let Some(value) = value {
            out.push(*code);
            put_cstring(out, value.as_bytes());
        }
    }
    out.push(0);
}

/// A zero byte would end the string early and shift all that follows: it is left out.
fn put_cstring(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().copied().filter(|&byte| byte != 0));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FirstPacket, StartupPacket};

    #[test]
    fn startup_is_read_back() {
        let pairs = [("user", "app"), ("database", "shop"), ("options", "-c a.b=c")];
        let pairs =
            pairs.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        let parameters = Parameters(pairs.to_vec());
        let mut out = Vec::new();
        startup(&mut out, &parameters);
        assert_eq!(out[..4], u32::try_from(out.len()).unwrap().to_be_bytes());
        let packet = StartupPacket { minor: 0, parameters };
        assert_eq!(FirstPacket::decode(&out[4..]), Ok(FirstPacket::Startup(packet)));
    }

    #[test]
    fn error_carries_all_its_fields() {
        let mut out = Vec::new();
        let text = Refusal::error("42601", "syntax error").with_hint("Look.").at(7);
        refusal(&mut out, &text);
        let expected = b"E\0\0\0\x32SERROR\0VERROR\0C42601\0Msyntax error\0HLook.\0P7\0\0";
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
    }

    #[test]
    fn zero_bytes_do_not_split_a_field() {
        let mut out = Vec::new();
        parameter_status(&mut out, "a", "b\0c");
        assert_eq!(out, b"S\0\0\0\x09a\0bc\0");
    }
}
