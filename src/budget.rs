//! A bound on what is held for clients, counted until it is released.
//!
//! A [`Budget`] counts one thing: bytes, or connection slots. As long as more than a quarter of it is free,
//! each client gets what it requests. After that, a client gets more only while it holds less than a
//! sixteenth of the whole. Of 160 slots, one client alone gets 120; each further client then gets up to 10,
//! until all are taken. Clients of this host (the unix socket, the bus) have an additional reserve, which
//! other clients cannot take.
//!
//! A request that does not fit is refused at once, and the interface reports that. Only an answer whose
//! transfer has begun may wait until other clients release something ([`Budget::wait`]).

use parking_lot::{Mutex, MutexGuard};

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

/// Shares are limited when less than this fraction of the budget is free.
const SCARCE_DIVISOR: u64 = 4;
/// The limit is then this fraction of the budget for each client.
const CLIENT_SHARE_DIVISOR: u64 = 16;

/// The holder of an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A client of this host: over the unix socket or the bus.
    Local,
    /// A proxy that is trusted to name its clients. It holds for many of them, so it has no limit of its own.
    Proxy,
    /// A peer: an IPv4 address, or the /64 network of an IPv6 address. Made by [`Client::of`].
    Address(IpAddr),
}

impl Client {
    /// The client at `address`. One IPv6 host has a whole /64 network.
    pub fn of(address: IpAddr) -> Client {
        Client::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 => v4,
        })
    }
}

/// An amount that may be held at once. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Limit for all clients.
    limit: u64,
    /// An additional limit for local clients.
    reserve: u64,
    /// Locked for an addition only.
    counts: Mutex<Counts>,
    /// Notified each time that something is released.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    /// Held for clients that are not local.
    remote: u64,
    local: u64,
    /// By address; a client that holds nothing is not listed.
    clients: HashMap<IpAddr, u64>,
}

impl Budget {
    /// A budget of `limit` for all clients, and of `reserve` more for local clients.
    pub fn new(limit: u64, reserve: u64) -> Budget {
        Budget(Arc::new(Shared {
            limit,
            reserve,
            counts: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Holds `amount` for `client`; `None` if that is too much now.
    #[must_use]
    pub fn hold(&self, client: Client, amount: u64) -> Option<Held> {
        self.0.try_take(client, amount).then(|| Held {
            budget: self.0.clone(),
            client,
            amount,
        })
    }

    /// The same, as soon as others have released enough. `None` when `amount` is more than the client can
    /// ever hold.
    pub async fn wait(&self, client: Client, amount: u64) -> Option<Held> {
        if amount > self.0.limit_for(client) {
            return None;
        }
        loop {
            let mut freed = pin!(self.0.freed.notified());
            // Registered before the budget is checked, so that no release in between is missed.
            freed.as_mut().enable();
            if let Some(held) = self.hold(client, amount) {
                return Some(held);
            }
            freed.await;
        }
    }

    /// The limit for all clients, without the reserve.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// What is held now for all clients.
    pub fn held(&self) -> u64 {
        let counts = self.0.counts();
        counts.remote + counts.local
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }

    /// The limit for a client when no other client holds anything.
    fn limit_for(&self, client: Client) -> u64 {
        match client {
            Client::Local => self.limit.saturating_add(self.reserve),
            Client::Proxy => self.limit,
            Client::Address(_) => self.limit - self.limit / SCARCE_DIVISOR,
        }
    }

    fn try_take(&self, client: Client, amount: u64) -> bool {
        let mut counts = self.counts();
        let total = counts.remote.saturating_add(counts.local);
        let total = total.saturating_add(amount);
        if total > self.limit.saturating_add(self.reserve) {
            return false;
        }
        if client == Client::Local {
            counts.local += amount;
            return true;
        }
        let remote = counts.remote.saturating_add(amount);
        if remote > self.limit {
            return false;
        }
        if let Client::Address(address) = client {
            let own = counts.clients.get(&address).copied().unwrap_or(0);
            let own = own.saturating_add(amount);
            let is_scarce = self.limit - remote < self.limit / SCARCE_DIVISOR;
            if is_scarce && own > self.limit / CLIENT_SHARE_DIVISOR {
                return false;
            }
            counts.clients.insert(address, own);
        }
        counts.remote = remote;
        true
    }

    fn transfer(&self, from: Client, to: Client, amount: u64) -> bool {
        let (Client::Proxy, Client::Address(to)) = (from, to) else {
            return from == to;
        };
        let mut counts = self.counts();
        let own = counts.clients.get(&to).copied().unwrap_or(0) + amount;
        let is_scarce = self.limit - counts.remote < self.limit / SCARCE_DIVISOR;
        let fits = !is_scarce || own <= self.limit / CLIENT_SHARE_DIVISOR;
        if fits {
            counts.clients.insert(to, own);
        }
        fits
    }

    fn release(&self, client: Client, amount: u64) {
        self.subtract(client, amount);
        self.freed.notify_waiters();
    }

    fn subtract(&self, client: Client, amount: u64) {
        let mut counts = self.counts();
        if client == Client::Local {
            counts.local -= amount;
            return;
        }
        counts.remote -= amount;
        if let Client::Address(address) = client
            && let Some(own) = counts.clients.get_mut(&address)
        {
            *own -= amount;
            if *own == 0 {
                counts.clients.remove(&address);
            }
        }
    }
}

/// An amount held for a client, until this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Shared>,
    client: Client,
    amount: u64,
}

impl Held {
    /// The holding client.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The held amount.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Holds `more` in addition. Returns false, and changes nothing, when that is too much now.
    #[must_use]
    pub fn grow(&mut self, more: u64) -> bool {
        let is_taken = self.budget.try_take(self.client, more);
        if is_taken {
            self.amount += more;
        }
        is_taken
    }

    /// Reduces the held amount to `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        let less = self.amount.saturating_sub(amount);
        self.budget.release(self.client, less);
        self.amount -= less;
    }

    /// Transfers it to the client at an address, in one step: no capacity for both is needed when it was held
    /// for a proxy. Returns false, and changes nothing, when that is too much for the client now.
    #[must_use]
    pub fn transfer_to(&mut self, client: Client) -> bool {
        let is_transferred = self.budget.transfer(self.client, client, self.amount);
        if is_transferred {
            self.client = client;
        }
        is_transferred
    }

    /// Wraps `bytes` so that they are counted until the last clone or slice of them is dropped.
    pub fn count_bytes(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.release(self.client, self.amount);
    }
}

struct Counted<B> {
    bytes: B,
    _held: Held,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Counted<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> Client {
        Client::of(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn one_client_cannot_take_the_shares_of_others() {
        let budget = Budget::new(160, 0);
        let first: Vec<Held> = std::iter::from_fn(|| budget.hold(client(1), 1)).collect();
        assert_eq!(first.len(), 120);
        // Each of the other clients gets its share of the rest.
        let second: Vec<Held> = std::iter::from_fn(|| budget.hold(client(2), 1)).collect();
        assert_eq!(second.len(), 10);
        let others = (3..=5).map(|last| budget.hold(client(last), 10));
        let others: Option<Vec<Held>> = others.collect();
        assert!(others.is_some());
        assert_eq!(budget.held(), 160);
        assert!(budget.hold(client(6), 1).is_none());
        drop((first, second, others));
        assert_eq!(budget.held(), 0);
        assert!(budget.0.counts().clients.is_empty());
    }

    #[test]
    fn bytes_transferred_from_a_proxy_to_its_client_are_counted_once() {
        let budget = Budget::new(16, 0);
        let mut last = budget.hold(Client::Proxy, 1).unwrap();
        let mut rest = budget.hold(Client::Proxy, 15).unwrap();
        assert!(last.transfer_to(client(1)));
        assert_eq!((last.client(), budget.held()), (client(1), 16));
        // That client has reached its share; what was refused stays unchanged.
        assert!(!rest.transfer_to(client(1)));
        assert_eq!((rest.client(), budget.held()), (Client::Proxy, 16));
        drop((last, rest));
        assert_eq!(budget.held(), 0);
        assert!(budget.0.counts().clients.is_empty());
    }

    #[test]
    fn the_reserve_is_for_local_clients_only() {
        let budget = Budget::new(100, 20);
        let proxy = budget.hold(Client::Proxy, 100).unwrap();
        assert!(budget.hold(client(1), 1).is_none());
        let local = budget.hold(Client::Local, 20).unwrap();
        assert!(budget.hold(Client::Local, 1).is_none());
        drop(proxy);
        // Local clients may use what is free; all together stay within the limit.
        let more = budget.hold(Client::Local, 95).unwrap();
        assert!(budget.hold(Client::Proxy, 6).is_none());
        assert!(budget.hold(Client::Proxy, 5).is_some());
        drop((local, more));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn bytes_are_counted_until_their_last_slice_is_dropped() {
        let budget = Budget::new(100, 0);
        let mut held = budget.hold(client(1), 10).unwrap();
        assert!(held.grow(20));
        assert!(!held.grow(80));
        held.shrink_to(25);
        assert_eq!((held.amount(), budget.held()), (25, 25));
        let mut bytes = held.count_bytes(vec![b'x'; 25]);
        let part = bytes.split_to(5);
        drop(bytes);
        assert_eq!(budget.held(), 25);
        assert_eq!(part, "xxxxx");
        drop(part);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_started_answer_waits_until_others_release_enough() {
        let budget = Budget::new(100, 0);
        let first = budget.hold(Client::Proxy, 90).unwrap();
        let mut waiting = Box::pin(budget.wait(Client::Proxy, 20));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let second = budget.hold(Client::Proxy, 10).unwrap();
        drop(second);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        assert_eq!(waiting.await.unwrap().amount(), 20);
        // An amount that can never be held is refused.
        assert!(budget.wait(client(1), 80).await.is_none());
    }

    #[test]
    fn all_addresses_of_one_network_count_as_one_client() {
        let of = |address: &str| Client::of(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3:4:5"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
