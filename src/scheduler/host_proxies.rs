//! The proxies of this process's environment, for image builds and containers (`host_proxies`).
//!
//! A value may contain a password: no message, record or document of the daemon has one.

use std::collections::BTreeMap;
use std::fmt;

/// The variables that Docker's own client passes on, in lower case; programs read either case.
const NAMES: [&str; 5] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

/// Longest value in bytes: all of them are in the URL of each image build.
const MAX_VALUE: usize = 2_000;

/// Variables with proxies, by their names in both cases.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HostProxies(BTreeMap<String, String>);

/// Hides the values.
impl fmt::Debug for HostProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl HostProxies {
    /// Those of an environment. A variable that is set in one case only is passed on in both. Values that are
    /// too long are left out, and returned by their names.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> (HostProxies, Vec<String>) {
        let (mut found, mut too_long) = (BTreeMap::new(), Vec::new());
        for name in NAMES {
            let upper = name.to_ascii_uppercase();
            let get = |name: &str| variable(name).filter(|value| !value.is_empty());
            let (in_lower, in_upper) = (get(name), get(&upper));
            let values = [
                (name.to_owned(), in_lower.clone().or(in_upper.clone())),
                (upper, in_upper.or(in_lower)),
            ];
            for (name, value) in values {
                match value {
                    Some(value) if value.len() > MAX_VALUE => too_long.push(name),
                    Some(value) => drop(found.insert(name, value)),
                    None => {}
                }
            }
        }
        (HostProxies(found), too_long)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values by their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_passed_on_in_both_cases_and_its_value_is_not_shown() {
        let (proxies, too_long) = HostProxies::of(|name| match name {
            "http_proxy" => Some("http://u:secret@p:1".to_owned()),
            "HTTPS_PROXY" => Some("http://upper".to_owned()),
            "no_proxy" => Some("a".to_owned()),
            "NO_PROXY" => Some("A".to_owned()),
            "all_proxy" => Some("x".repeat(2_001)),
            "ftp_proxy" => Some(String::new()),
            _ => None,
        });
        let passed: Vec<_> = proxies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            passed,
            [
                "HTTPS_PROXY=http://upper",
                "HTTP_PROXY=http://u:secret@p:1",
                "NO_PROXY=A",
                "http_proxy=http://u:secret@p:1",
                "https_proxy=http://upper",
                "no_proxy=a",
            ]
        );
        assert_eq!(too_long, ["all_proxy", "ALL_PROXY"]);
        assert!(!format!("{proxies:?}").contains("secret"), "{proxies:?}");
        assert!(HostProxies::of(|_| None).0.is_empty());
    }
}
