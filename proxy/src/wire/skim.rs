//! Follows message boundaries in the stream from a compute to its client, without looking at
//! bodies: to know whether the session is idle, and where a message of ours may be put in.
//!
//! State: `have` bytes of a 5-byte header, then `remaining` bytes of a body. A length below 4 is
//! garbage: the skimmer is then lost for good and never claims a boundary again.

/// The transaction status that ReadyForQuery carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

/// Where in the stream we are.
#[derive(Debug, Default)]
pub(crate) struct Skimmer {
    header: [u8; 5],
    have: usize,
    remaining: usize,
    lost: bool,
    ready: Option<TransactionStatus>,
}

impl TransactionStatus {
    /// The byte on the wire.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            b'I' => Self::Idle,
            b'T' => Self::InTransaction,
            _ => Self::Failed,
        }
    }
}

impl Skimmer {
    /// Takes the next bytes of the stream.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            bytes = if self.remaining > 0 {
                self.skip_body(bytes)
            } else if self.have == 0
                && let Some((header, rest)) = bytes.split_first_chunk()
            {
                self.header = *header;
                self.enter_body();
                rest
            } else {
                self.read_header(bytes)
            };
        }
    }

    /// Whether the stream stands between two messages.
    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.remaining == 0 && !self.lost
    }

    /// The status, if the last message was ReadyForQuery and nothing followed it.
    pub(crate) fn ready(&self) -> Option<TransactionStatus> {
        self.ready.filter(|_| self.at_boundary())
    }

    fn read_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let wanted = self.header.len() - self.have;
        let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
        for (slot, byte) in self.header.iter_mut().skip(self.have).zip(taken) {
            *slot = *byte;
        }
        self.have += taken.len();
        if self.have == self.header.len() {
            self.enter_body();
        }
        rest
    }

    fn enter_body(&mut self) {
        let [_, length @ ..] = self.header;
        match usize::try_from(u32::from_be_bytes(length)).ok().and_then(|l| l.checked_sub(4)) {
            Some(remaining) => self.remaining = remaining,
            None => self.lost = true,
        }
        self.have = 0;
        self.ready = None;
    }

    fn skip_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (body, rest) = bytes.split_at(self.remaining.min(bytes.len()));
        self.remaining -= body.len();
        let [tag, ..] = self.header;
        if tag == b'Z' && self.remaining == 0 {
            self.ready = body.last().copied().map(TransactionStatus::from_byte);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    const STREAM: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05TN\0\0\0\x05\0Z\0\0\0\x05I";

    #[test]
    fn same_result_however_the_stream_is_cut() {
        for cut in 0..=STREAM.len() {
            let mut skimmer = Skimmer::default();
            skimmer.feed(&STREAM[..cut]);
            skimmer.feed(&STREAM[cut..]);
            assert_eq!(skimmer.ready(), Some(TransactionStatus::Idle), "{cut}");
        }
        let mut skimmer = Skimmer::default();
        for byte in STREAM {
            skimmer.feed(std::slice::from_ref(byte));
        }
        assert_eq!(skimmer.ready(), Some(TransactionStatus::Idle));
    }

    #[test]
    fn ready_only_right_after_ready_for_query() {
        let mut skimmer = Skimmer::default();
        let mut ready = Vec::new();
        for byte in STREAM {
            skimmer.feed(std::slice::from_ref(byte));
            ready.push(skimmer.ready());
        }
        assert_eq!(ready.iter().flatten().count(), 2);
        assert_eq!(ready[19], Some(TransactionStatus::InTransaction));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = StdRng::seed_from_u64(11);
        for _ in 0..5_000 {
            let mut bytes = vec![0; (random.next_u32() % 256) as usize];
            random.fill_bytes(&mut bytes);
            let mut skimmer = Skimmer::default();
            for part in bytes.chunks(1 + (random.next_u32() % 17) as usize) {
                skimmer.feed(part);
            }
        }
    }
}
