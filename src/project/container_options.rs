//! Options of a container besides its limits, as `docker run` has them: in the configuration for all projects,
//! and in `mistry.json`, where each replaces the configuration's.
//!
//! A value of one of these types is valid: what Docker refuses or misunderstands is refused when the file is
//! read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::param_schema::quoted;
use super::similar::did_you_mean;
use super::units::parse_size;

/// Most name servers: the C libraries ask three of them.
const MAX_NAME_SERVERS: usize = 10;
/// Most lines that are added to `/etc/hosts`: each look-up of a name reads all of them.
const MAX_HOSTS: usize = 100;
/// Longest host name in bytes: that of DNS.
const MAX_HOST_NAME: usize = 253;
/// A page, since smaller ones hold nothing; beyond the upper limit it is a typing error.
const SHM_SIZES: RangeInclusive<u64> = (4 << 10)..=(16 << 40);

/// The limits that `docker run --ulimit` knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The address of an extra host that stands for the host that runs the Engine.
const HOST_GATEWAY: &str = "host-gateway";

/// Name servers of a container, instead of the host's: `--dns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct NameServers(Vec<IpAddr>);

/// Lines for a container's `/etc/hosts`: `--add-host`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct ExtraHosts(Vec<String>);

/// Resource limits of a container's processes by their names: `--ulimit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, WrittenUlimit>")]
pub struct Ulimits(BTreeMap<String, Ulimit>);

/// A limit that a process may raise from `soft` to `hard`; -1 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// The limit.
    pub soft: i64,
    /// The highest value of the limit.
    pub hard: i64,
}

/// Bytes of a container's `/dev/shm`: `--shm-size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenSize")]
pub struct ShmSize(u64);

/// A limit as it may be written.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a number (-1 is unlimited), or {\"soft\": number, \"hard\": number}"
)]
enum WrittenUlimit {
    Both(i64),
    Each(EachUlimit),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EachUlimit {
    soft: i64,
    hard: i64,
}

/// A size as it may be written.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a size: a number of bytes, or a text like 64M or 1g"
)]
enum WrittenSize {
    Bytes(u64),
    Text(String),
}

impl NameServers {
    /// The addresses.
    pub fn iter(&self) -> impl Iterator<Item = &IpAddr> {
        self.0.iter()
    }
}

impl TryFrom<Vec<String>> for NameServers {
    type Error = String;

    fn try_from(written: Vec<String>) -> Result<NameServers, String> {
        at_most(MAX_NAME_SERVERS, written.len(), "addresses")?;
        let addresses = written.iter().map(|address| {
            let parsed = address.parse::<IpAddr>();
            parsed.map_err(|_| {
                let found = quoted(address);
                format!("expected addresses of name servers such as 192.0.2.1, found {found}")
            })
        });
        Ok(NameServers(addresses.collect::<Result<_, String>>()?))
    }
}

impl ExtraHosts {
    /// Each as `name:address`.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl TryFrom<Vec<String>> for ExtraHosts {
    type Error = String;

    fn try_from(written: Vec<String>) -> Result<ExtraHosts, String> {
        at_most(MAX_HOSTS, written.len(), "hosts")?;
        match written.iter().find(|host| !is_extra_host(host)) {
            None => Ok(ExtraHosts(written)),
            Some(host) => Err(format!(
                "expected texts such as db.example:192.0.2.1 or build-host:{HOST_GATEWAY}, found {}",
                quoted(host)
            )),
        }
    }
}

fn is_extra_host(text: &str) -> bool {
    let Some((name, address)) = text.split_once(':') else {
        return false;
    };
    let is_name = (1..=MAX_HOST_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name && (address == HOST_GATEWAY || address.parse::<IpAddr>().is_ok())
}

impl Ulimits {
    /// The limits by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Ulimit)> {
        self.0.iter().map(|(name, limit)| (name.as_str(), *limit))
    }
}

impl TryFrom<BTreeMap<String, WrittenUlimit>> for Ulimits {
    type Error = String;

    fn try_from(written: BTreeMap<String, WrittenUlimit>) -> Result<Ulimits, String> {
        let limits = written.into_iter().map(|(name, written)| {
            if !ULIMITS.contains(&&*name) {
                let meant = did_you_mean(&name, ULIMITS);
                let meant = meant.map_or_else(String::new, |meant| format!("; {meant}"));
                let (known, found) = (ULIMITS.join(", "), quoted(&name));
                return Err(format!("expected one of {known}, found {found}{meant}"));
            }
            let limit = match written {
                WrittenUlimit::Both(limit) => Ulimit {
                    soft: limit,
                    hard: limit,
                },
                WrittenUlimit::Each(EachUlimit { soft, hard }) => Ulimit { soft, hard },
            };
            limit.check().map_err(|wrong| format!("{name}: {wrong}"))?;
            Ok((name, limit))
        });
        Ok(Ulimits(limits.collect::<Result<_, String>>()?))
    }
}

impl Ulimit {
    fn check(self) -> Result<(), String> {
        let Ulimit { soft, hard } = self;
        if let Some(limit) = [soft, hard].iter().find(|limit| **limit < -1) {
            return Err(format!("expected -1 (unlimited) or more, found {limit}"));
        }
        let is_above = hard != -1 && (soft == -1 || soft > hard);
        match is_above {
            true => Err(format!(
                "expected a soft limit of at most the hard one, found soft {soft} and hard {hard}"
            )),
            false => Ok(()),
        }
    }
}

impl ShmSize {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<WrittenSize> for ShmSize {
    type Error = String;

    fn try_from(written: WrittenSize) -> Result<ShmSize, String> {
        let (bytes, found) = match written {
            WrittenSize::Bytes(bytes) => (Some(bytes), bytes.to_string()),
            WrittenSize::Text(text) => (size_of_docker(&text), quoted(&text)),
        };
        match bytes.filter(|bytes| SHM_SIZES.contains(bytes)) {
            Some(bytes) => Ok(ShmSize(bytes)),
            None => Err(format!(
                "expected a size of 4K to 16T, such as 64M or 1g, found {found}"
            )),
        }
    }
}

/// A size with a unit of Docker: in either case, also as `64mb` and `64MiB`.
fn size_of_docker(text: &str) -> Option<u64> {
    let upper = text.to_ascii_uppercase();
    let unit = upper.strip_suffix('B').unwrap_or(&upper);
    parse_size(unit.strip_suffix('I').unwrap_or(unit))
}

fn at_most(most: usize, count: usize, what: &str) -> Result<(), String> {
    match count > most {
        true => Err(format!("expected at most {most} {what}, found {count}")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn name_servers_are_addresses() {
        let servers: NameServers = read(r#"["192.0.2.1","2001:db8::1"]"#).unwrap();
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1", "2001:db8::1"]);
        for wrong in [
            r#"["dns.example"]"#,
            r#"["192.0.2.1:53"]"#,
            r#"[""]"#,
            "[1]",
            r#""192.0.2.1""#,
            &serde_json::json!(vec!["192.0.2.1"; 11]).to_string(),
        ] {
            assert!(read::<NameServers>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_extra_host_is_a_name_and_an_address() {
        for right in ["a:192.0.2.1", "db_1.example:::1", "h:host-gateway"] {
            let hosts: ExtraHosts = read(&format!("[\"{right}\"]")).unwrap();
            assert_eq!(hosts.iter().collect::<Vec<_>>(), [right]);
        }
        for wrong in [
            "a",
            ":192.0.2.1",
            "a:",
            "a b:192.0.2.1",
            "a:b",
            "a:192.0.2.1 b",
            "a\\n:192.0.2.1",
        ] {
            let error = read::<ExtraHosts>(&format!("[\"{wrong}\"]")).unwrap_err();
            assert!(error.contains("host-gateway, found '"), "{error}");
        }
    }

    #[test]
    fn a_ulimit_is_one_number_or_two() {
        let limits: Ulimits =
            read(r#"{"nofile":1024,"core":{"soft":0,"hard":-1},"nproc":-1}"#).unwrap();
        let limits: Vec<_> = limits.iter().map(|(n, l)| (n, l.soft, l.hard)).collect();
        assert_eq!(
            limits,
            [("core", 0, -1), ("nofile", 1024, 1024), ("nproc", -1, -1)]
        );
        for (wrong, said) in [
            (r#"{"nofiles":1}"#, "did you mean 'nofile'?"),
            (r#"{"as":1}"#, "sigpending, stack, found 'as'"),
            (r#"{"nofile":"1:2"}"#, "a number (-1 is unlimited), or {"),
            (r#"{"nofile":{"soft":1}}"#, "a number (-1 is unlimited)"),
            (r#"{"nofile":-2}"#, "nofile: expected -1 (unlimited)"),
            (
                r#"{"nofile":{"soft":2,"hard":1}}"#,
                "nofile: expected a soft limit of at most the hard one",
            ),
            (
                r#"{"nofile":{"soft":-1,"hard":1}}"#,
                "found soft -1 and hard 1",
            ),
        ] {
            let error = read::<Ulimits>(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_size_may_be_written_as_for_docker() {
        for (right, bytes) in [
            ("67108864", 64 << 20),
            (r#""64m""#, 64 << 20),
            (r#""64MiB""#, 64 << 20),
            (r#""1gb""#, 1 << 30),
            (r#""4096""#, 4096),
        ] {
            assert_eq!(read::<ShmSize>(right).unwrap().bytes(), bytes, "{right}");
        }
        for wrong in ["0", "4095", r#""17T""#, r#""""#, r#""big""#, "-1", "1.5"] {
            let error = read::<ShmSize>(wrong).unwrap_err();
            assert!(error.contains("size"), "{wrong}: {error}");
        }
    }
}
