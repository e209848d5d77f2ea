//! The answer that all clients of a build get when it is finished. Its JSON is serialized once for all of
//! them, counted once, and released with the last of them.
//!
//! The clients of one build get different JSON: with or without the log, coalesced or not. So the shared JSON
//! is sent in slices, with the parts that differ inserted for each client.

use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use memchr::memmem;
use tokio::sync::Notify;

use parking_lot::{Mutex, MutexGuard};

use super::BuildInfo;
use super::last_used::Noted;
use crate::api::BuildView;
use crate::budget::Held;

/// The answer of a finished build. Clones share everything.
#[derive(Clone, Debug)]
pub struct BuildAnswer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: Arc<BuildInfo>,
    /// The end of its log; `None` where it was not read.
    log: Option<Arc<str>>,
    is_cached: bool,
    kept: OnceLock<Text>,
    /// JSON that is too large to be cached, while a client holds it. Locked while it is serialized, so that
    /// this happens once.
    shared: Mutex<Weak<Whole>>,
    /// Notified when it is there.
    written: Notify,
    noted: Noted,
}

/// JSON, and the ranges in it that differ between clients.
#[derive(Clone, Debug)]
struct Text {
    json: Bytes,
    /// The value of `Coalesced`.
    coalesced: Range<usize>,
    /// Both keys of the log.
    log: Range<usize>,
}

/// JSON counted in a budget.
#[derive(Debug)]
struct Whole {
    text: Text,
    _held: Held,
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.text.json
    }
}

/// Shares counted JSON with every holder of a part of it.
struct Part(Arc<Whole>);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// What differs between the clients of one answer.
#[derive(Clone, Copy, Debug)]
pub struct AnswerForm {
    /// The client's request joined a build that another one had requested.
    pub coalesced: bool,
    /// The client wants the end of the log.
    pub with_log: bool,
}

/// The JSON of an answer, counted while any part of it is held.
#[derive(Debug)]
pub struct AnswerJson {
    text: Text,
}

impl BuildAnswer {
    /// Most JSON is no larger. Up to this size it is cached with the answer, because cached jobs are
    /// requested again and again. Larger JSON is dropped with the last client that holds it, and serialized
    /// again for the next.
    pub const SMALL: u64 = 16 << 10;

    /// The answer from a build that was made for its clients, with the end of its log.
    pub fn new(info: BuildInfo, log: Option<String>) -> BuildAnswer {
        BuildAnswer::of(info, log.map(Arc::from), false)
    }

    /// The answer from a build that was ready before, with the end of its log.
    pub fn cached(info: BuildInfo, log: String) -> BuildAnswer {
        BuildAnswer::of(info, Some(log.into()), true)
    }

    fn of(info: BuildInfo, log: Option<Arc<str>>, is_cached: bool) -> BuildAnswer {
        BuildAnswer(Arc::new(Inner {
            info: Arc::new(info),
            log,
            is_cached,
            kept: OnceLock::new(),
            shared: Mutex::default(),
            written: Notify::new(),
            noted: Noted::default(),
        }))
    }

    /// When the use of its build was last written to disk.
    pub(super) fn noted(&self) -> &Noted {
        &self.0.noted
    }

    /// The public info.
    pub fn info(&self) -> &Arc<BuildInfo> {
        &self.0.info
    }

    /// The end of the build's log, if it was read.
    pub fn log(&self) -> Option<&str> {
        self.0.log.as_deref()
    }

    /// True when the build was ready before it was requested.
    pub fn is_cached(&self) -> bool {
        self.0.is_cached
    }

    /// The same without its log, and with the params that lists show.
    #[must_use]
    pub fn abridged(&self) -> BuildAnswer {
        let mut info = BuildInfo::clone(&self.0.info);
        info.abridge();
        BuildAnswer::of(info, None, self.0.is_cached)
    }

    /// Its document, with `Coalesced` false, which is set for each client when its JSON is sent.
    fn view(&self) -> BuildView {
        BuildView {
            cached: self.0.is_cached,
            container_stdouterr: self.0.log.clone(),
            ..self.0.info.view()
        }
    }

    /// The same as JSON. `hold` counts that many bytes for the client; it is not called when another client
    /// has counted them.
    ///
    /// # Errors
    /// The error of `hold`, and [`serde_json::Error`] when the info cannot be serialized.
    pub async fn json<E, F>(&self, hold: impl FnOnce(u64) -> F) -> Result<AnswerJson, E>
    where
        E: From<serde_json::Error>,
        F: Future<Output = Result<Held, E>>,
    {
        if let Some(text) = self.0.kept.get() {
            return Ok(text.held(hold(text.json.len() as u64).await?));
        }
        if let Some(whole) = self.shared().upgrade() {
            return Ok(AnswerJson::of(&whole));
        }
        // Counted before it is serialized. Each client waits for capacity of its own, since some have a
        // reserve, until one of them has serialized it for all.
        let mut length = Length(0);
        serde_json::to_writer(&mut length, &self.view())?;
        let mut holding = pin!(hold(length.0 as u64));
        let held = loop {
            let mut written = pin!(self.0.written.notified());
            // Registered before the check, so that no notification in between is missed.
            written.as_mut().enable();
            if let Some(whole) = self.shared().upgrade() {
                return Ok(AnswerJson::of(&whole));
            }
            tokio::select! {
                held = holding.as_mut() => break held?,
                () = written => {}
            }
        };
        let mut shared = self.shared();
        if let Some(whole) = shared.upgrade() {
            return Ok(AnswerJson::of(&whole));
        }
        let mut json = Vec::with_capacity(length.0);
        serde_json::to_writer(&mut json, &self.view())?;
        let text = Text::of(json.into())?;
        if length.0 as u64 <= BuildAnswer::SMALL {
            return Ok(self.0.kept.get_or_init(|| text).held(held));
        }
        let whole = Arc::new(Whole { text, _held: held });
        *shared = Arc::downgrade(&whole);
        drop(shared);
        self.0.written.notify_waiters();
        Ok(AnswerJson::of(&whole))
    }

    fn shared(&self) -> MutexGuard<'_, Weak<Whole>> {
        self.0.shared.lock()
    }
}

impl Text {
    fn of(json: Bytes) -> Result<Text, serde_json::Error> {
        // A quotation mark within a text is escaped, so these are keys; and a param's value is never a
        // boolean, whatever its name is.
        let find = |from: usize, key: &str| {
            let at = json
                .get(from..)
                .and_then(|rest| memmem::find(rest, key.as_bytes()));
            at.map(|at| from + at)
        };
        let lacks =
            || <serde_json::Error as serde::ser::Error>::custom("a key of the info is missing");
        const COALESCED: &str = ",\"Coalesced\":false";
        const INCREMENTAL: &str = ",\"Incremental\":";
        let coalesced = find(0, &format!("{COALESCED}{INCREMENTAL}")).ok_or_else(lacks)?;
        let coalesced = coalesced + COALESCED.len() - "false".len()..coalesced + COALESCED.len();
        let end = find(coalesced.end, ",\"TransportMethod\":\"").ok_or_else(lacks)?;
        let stdouterr = find(coalesced.end, ",\"ContainerStdouterr\":\"");
        let stderr = find(coalesced.end, ",\"ContainerStderr\":\"");
        let log = stdouterr.or(stderr).unwrap_or(end)..end;
        Ok(Text {
            json,
            coalesced,
            log,
        })
    }

    /// Wraps it, counted by `held`.
    fn held(&self, held: Held) -> AnswerJson {
        AnswerJson {
            text: Text {
                json: held.count_bytes(self.json.clone()),
                ..self.clone()
            },
        }
    }
}

impl AnswerJson {
    fn of(whole: &Arc<Whole>) -> AnswerJson {
        AnswerJson {
            text: Text {
                json: Bytes::from_owner(Part(whole.clone())),
                ..whole.text.clone()
            },
        }
    }

    /// The JSON for one client, in parts.
    pub fn parts(&self, form: AnswerForm) -> Vec<Bytes> {
        let AnswerForm {
            coalesced,
            with_log,
        } = form;
        let Text {
            json,
            coalesced: at,
            log: printed,
        } = &self.text;
        let word = if coalesced { "true" } else { "false" };
        let mut parts = vec![
            json.slice(..at.start),
            Bytes::from_static(word.as_bytes()),
            json.slice(at.end..printed.start),
        ];
        if with_log {
            parts.push(json.slice(printed.clone()));
        }
        parts.push(json.slice(printed.end..));
        parts
    }
}

/// Counts the bytes written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Client};

    fn answer(value: &str) -> BuildAnswer {
        let mut info = BuildInfo::example();
        let names = ["Coalesced", ",\"Coalesced\":false,\"Incremental\":", "x"];
        for name in names {
            info.params.insert(name.to_owned(), Some(value.into()));
        }
        info.stderr = Some("printed".into());
        let log = "printed,\"TransportMethod\":\"\n";
        BuildAnswer::new(info, Some(log.to_owned()))
    }

    async fn json(answer: &BuildAnswer, budget: &Budget) -> AnswerJson {
        let held = async |bytes| {
            let held = budget.hold(Client::Local, bytes);
            Ok::<_, serde_json::Error>(held.unwrap())
        };
        answer.json(held).await.unwrap()
    }

    fn read(parts: &[Bytes]) -> BuildView {
        serde_json::from_slice(&parts.concat()).unwrap()
    }

    #[tokio::test]
    async fn each_client_gets_its_own_fields_whatever_the_params_contain() {
        let budget = Budget::new(1 << 30, 0);
        for value in [
            "false",
            &",\"Coalesced\":false,\"Incremental\":".repeat(1_000),
        ] {
            let answer = answer(value);
            let json = json(&answer, &budget).await;
            assert_eq!(
                read(&json.parts(AnswerForm {
                    coalesced: false,
                    with_log: true
                })),
                answer.view()
            );
            let sent = read(&json.parts(AnswerForm {
                coalesced: true,
                with_log: false,
            }));
            let expected = BuildView {
                coalesced: true,
                container_stdouterr: None,
                container_stderr: None,
                ..answer.view()
            };
            assert_eq!(sent, expected);
        }
    }

    #[tokio::test]
    async fn large_json_is_shared_by_all_clients_and_freed_with_the_last() {
        let budget = Budget::new(1 << 30, 0);
        let answer = answer(&"x".repeat(1 << 20));
        let mut parts = Vec::new();
        for _ in 0..100 {
            parts.push(json(&answer, &budget).await.parts(AnswerForm {
                coalesced: true,
                with_log: true,
            }));
        }
        let once = parts[0].iter().map(Bytes::len).sum::<usize>() as u64 + 1;
        assert_eq!(budget.held(), once);
        let last = parts.pop();
        drop(parts);
        assert_eq!(budget.held(), once);
        drop(last);
        assert_eq!(budget.held(), 0);
    }
}
