//! How many connections there are: strangers in total, and all of one address.
//!
//! Where there are too many strangers the one that has been one for longest is sent away: whoever
//! holds connections open and says nothing keeps nobody else out.
//!
//! Invariants:
//! * A connection is counted from accept until its [`Place`] is dropped; it is a stranger until
//!   [`Place::authenticated`], and entering until [`Place::settled`].
//! * `per_address[a]` is the number of places whose address is `a`; an entry at zero is removed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::sessions::Peer;

/// Who counts as one: an IPv4 address, the /64 of an IPv6 address (one customer has at least
/// that), or a user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    Address(IpAddr),
    User(u32),
}

/// All connections of the front door.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    counts: Mutex<Counts>,
    /// Connections between accept and the start of their relay or console.
    entering: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    last: u64,
    /// By age, with what sends each away.
    strangers: BTreeMap<u64, CancellationToken>,
    per_address: HashMap<IpAddr, usize>,
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    address: Option<IpAddr>,
    /// Others need the room that this stranger takes.
    pub(crate) evicted: CancellationToken,
    is_entering: bool,
}

impl Origin {
    pub(crate) fn of(peer: Peer) -> Self {
        match peer {
            Peer::Tcp(address) => Self::Address(match address.ip().to_canonical() {
                IpAddr::V4(address) => address.into(),
                IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            }),
            Peer::Unix { uid, .. } => Self::User(uid),
        }
    }
}

impl Crowd {
    /// Lets a connection in, or says why not.
    pub(crate) fn enter(self: &Arc<Self>, peer: Peer, limits: &Limits) -> Result<Place, Refusal> {
        let mut counts = self.counts();
        let address = match Origin::of(peer) {
            Origin::Address(address) => Some(address),
            // Whoever is on this host can do worse.
            Origin::User(_) => None,
        };
        if let Some(address) = address {
            let count = counts.per_address.entry(address).or_default();
            if *count >= limits.connections_per_address {
                return Err(Refusal::fatal("53300", "too many connections from your address"));
            }
            *count += 1;
        }
        while counts.strangers.len() >= limits.preauth_connections.max(1) {
            if let Some((_, oldest)) = counts.strangers.pop_first() {
                oldest.cancel();
            }
        }
        counts.last += 1;
        let (number, evicted) = (counts.last, CancellationToken::new());
        counts.strangers.insert(number, evicted.clone());
        drop(counts);
        self.entering.send_modify(|entering| *entering += 1);
        Ok(Place { crowd: Arc::clone(self), number, address, evicted, is_entering: true })
    }

    /// Connections that have not authenticated yet.
    pub(crate) fn strangers(&self) -> usize {
        self.counts().strangers.len()
    }

    /// Returns once no connection is on its way from accept to its relay or console.
    pub(crate) async fn all_settled(&self) {
        let mut entering = self.entering.subscribe();
        // The sender lives as long as `self`.
        let _ = entering.wait_for(|entering| *entering == 0).await;
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Each change leaves the counts whole, so one that panicked elsewhere does no harm.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It has proved who it is.
    pub(crate) fn authenticated(&mut self) {
        self.crowd.counts().strangers.remove(&self.number);
    }

    /// It is being relayed, or talks to the console.
    pub(crate) fn settled(&mut self) {
        if std::mem::take(&mut self.is_entering) {
            self.crowd.entering.send_modify(|entering| *entering -= 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.authenticated();
        self.settled();
        let mut counts = self.crowd.counts();
        if let Some(address) = self.address
            && let Some(count) = counts.per_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.per_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Tcp(text.parse().unwrap())
    }

    #[test]
    fn bounds_strangers_and_addresses() {
        let crowd = Arc::new(Crowd::default());
        let limits =
            Limits { preauth_connections: 3, connections_per_address: 2, ..Limits::default() };
        let is_evicted = |place: &Place| place.evicted.is_cancelled();
        let enter = |text| crowd.enter(peer(text), &limits);
        let mut first = enter("[2001:db8::1]:1").unwrap();
        let second = enter("[2001:db8::2]:1").unwrap();
        let refused = enter("[2001:db8::3]:1").unwrap_err();
        assert_eq!(refused.message, "too many connections from your address");
        let third = enter("10.0.0.1:1").unwrap();
        first.authenticated();
        let fourth = enter("10.0.0.2:1").unwrap();
        assert!(![&first, &second, &third, &fourth].into_iter().any(is_evicted));
        let fifth = enter("10.0.0.3:1").unwrap();
        assert_eq!([&first, &second, &third].map(is_evicted), [false, true, false]);
        assert_eq!(crowd.strangers(), 3);
        drop((first, second, third, fourth, fifth));
        assert_eq!((crowd.strangers(), crowd.counts().per_address.len()), (0, 0));
    }

    #[test]
    fn a_mapped_address_is_the_plain_one() {
        assert_eq!(Origin::of(peer("[::ffff:10.0.0.1]:1")), Origin::of(peer("10.0.0.1:2")));
    }
}
