//! Networks, and who is in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that begin with the same bits (CIDR, RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The address, and how many of its bits count.
    V4(u32, u32),
    /// Likewise.
    V6(u128, u32),
}

/// Some networks, and perhaps the peers of Unix sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    list: Vec<Network>,
    local: bool,
}

impl Network {
    /// The addresses that have their first `bits` bits in common with `ip`; `None` when it has not as many. IPv4
    /// addresses that are written as IPv6 (`::ffff:10.0.0.0/104`) are IPv4.
    pub fn new(ip: IpAddr, bits: u32) -> Option<Network> {
        match ip {
            IpAddr::V4(ip) if bits <= 32 => Some(Network::V4(ip.to_bits() & mask4(bits), bits)),
            IpAddr::V6(ip) if bits <= 128 => Some(match ip.to_ipv4_mapped() {
                Some(ip) if bits >= 96 => Network::V4(ip.to_bits() & mask4(bits - 96), bits - 96),
                _ => Network::V6(ip.to_bits() & mask6(bits), bits),
            }),
            _ => None,
        }
    }

    /// True when the address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self, ip.to_canonical()) {
            (Network::V4(network, bits), IpAddr::V4(ip)) => in4(*network, *bits, ip),
            (Network::V6(network, bits), IpAddr::V6(ip)) => in6(*network, *bits, ip),
            _ => false,
        }
    }
}

impl Networks {
    /// These, and the peers of Unix sockets if `local`.
    pub fn new(list: Vec<Network>, local: bool) -> Self {
        Networks { list, local }
    }

    /// True when a peer is in one of them. One without an address is that of a Unix socket.
    pub fn contain(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(ip) => self.list.iter().any(|network| network.contains(ip)),
            None => self.local,
        }
    }
}

fn in4(network: u32, bits: u32, ip: Ipv4Addr) -> bool {
    ip.to_bits() & mask4(bits) == network
}

fn in6(network: u128, bits: u32, ip: Ipv6Addr) -> bool {
    ip.to_bits() & mask6(bits) == network
}

fn mask4(bits: u32) -> u32 {
    // All of them cannot be shifted out.
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn mask6(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[(&str, u32)]) -> Networks {
        let network = |(ip, bits): &(&str, u32)| Network::new(ip.parse().unwrap(), *bits).unwrap();
        Networks::new(list.iter().map(network).collect(), false)
    }

    fn contain(networks: &Networks, ip: &str) -> bool {
        networks.contain(Some(ip.parse().unwrap()))
    }

    #[test]
    fn an_address_is_in_a_network_if_its_first_bits_are_the_same() {
        let ours = networks(&[("10.0.0.0", 8), ("192.168.7.128", 25), ("2001:db8::", 33)]);
        for ip in [
            "10.0.0.0",
            "10.255.255.255",
            "192.168.7.200",
            "2001:db8:7fff::1",
        ] {
            assert!(contain(&ours, ip), "{ip}");
        }
        for ip in [
            "11.0.0.0",
            "9.255.255.255",
            "192.168.7.127",
            "2001:db8:8000::",
        ] {
            assert!(!contain(&ours, ip), "{ip}");
        }
    }

    #[test]
    fn all_bits_are_one_address_and_none_are_every_one_of_a_family() {
        let one = networks(&[("10.0.0.1", 32), ("::1", 128)]);
        assert!(contain(&one, "10.0.0.1") && contain(&one, "::1"));
        assert!(!contain(&one, "10.0.0.2") && !contain(&one, "::2"));
        let all4 = networks(&[("0.0.0.0", 0)]);
        assert!(contain(&all4, "203.0.113.1") && !contain(&all4, "2001:db8::1"));
        let all6 = networks(&[("::", 0)]);
        assert!(contain(&all6, "2001:db8::1") && !contain(&all6, "203.0.113.1"));
    }

    #[test]
    fn an_ipv4_address_written_as_ipv6_is_ipv4_on_either_side() {
        let four = networks(&[("10.0.0.0", 8)]);
        assert!(contain(&four, "::ffff:10.1.2.3"));
        assert!(!contain(&four, "::ffff:11.1.2.3"));
        let six = networks(&[("::ffff:10.0.0.0", 104)]);
        assert_eq!(six, four);
        assert!(contain(&six, "10.1.2.3"));
        // An address of IPv6 with the same bits at its end is not.
        assert!(!contain(&four, "::10.1.2.3"));
    }

    #[test]
    fn bits_beyond_the_prefix_do_not_count_and_more_than_there_are_are_refused() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            Network::new(ip("10.1.2.3"), 8),
            Network::new(ip("10.0.0.0"), 8)
        );
        assert_eq!(Network::new(ip("10.0.0.0"), 33), None);
        assert_eq!(Network::new(ip("::"), 129), None);
    }

    #[test]
    fn peers_of_unix_sockets_are_in_if_that_is_said() {
        assert!(!networks(&[("0.0.0.0", 0), ("::", 0)]).contain(None));
        assert!(Networks::new(Vec::new(), true).contain(None));
        assert!(!Networks::default().contain(None));
    }
}
