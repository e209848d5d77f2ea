//! Containers of the fake engine: real processes of the host.
//!
//! A container runs `/bin/sh run.sh`, the `run.sh` that its image's context held, in the directory
//! that is bound to `/data` and with that directory's name in `DATA`. Its processes are one group.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    sync::watch,
};

/// A container that was created, as it was asked for.
#[derive(Debug, Clone)]
pub struct ContainerSeen {
    pub id: String,
    pub name: String,
    /// The whole body of the request, in the API's words.
    pub spec: Value,
    pub labels: BTreeMap<String, String>,
    pub image: String,
    pub running: bool,
    /// Its exit code, once it has ended.
    pub exit: Option<i64>,
    pub removed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Created,
    Running,
    Exited(i64),
}

pub struct Container {
    pub id: String,
    pub name: String,
    pub spec: Value,
    root: PathBuf,
    pub state: watch::Sender<State>,
    /// Frames as `/logs` sends them, each with its time, and a signal that there are more.
    frames: Mutex<Vec<(Timestamp, Bytes)>>,
    more: watch::Sender<usize>,
    ended_at: Mutex<Option<Timestamp>>,
    group: Mutex<Option<Pid>>,
}

impl Container {
    pub fn new(id: String, name: String, spec: Value, root: PathBuf) -> Arc<Container> {
        Arc::new(Container {
            id,
            name,
            spec,
            root,
            state: watch::Sender::new(State::Created),
            frames: Mutex::default(),
            more: watch::Sender::new(0),
            ended_at: Mutex::default(),
            group: Mutex::default(),
        })
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    pub fn seen(&self, removed: bool) -> ContainerSeen {
        let state = self.state();
        ContainerSeen {
            id: self.id.clone(),
            name: self.name.clone(),
            spec: self.spec.clone(),
            labels: self.labels(),
            image: self.spec["Image"].as_str().unwrap_or("").to_owned(),
            running: state == State::Running,
            exit: match state {
                State::Exited(code) => Some(code),
                _ => None,
            },
            removed,
        }
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        serde_json::from_value(self.spec["Labels"].clone()).unwrap_or_default()
    }

    pub fn summary(&self) -> Value {
        let (state, status) = match self.state() {
            State::Created => ("created", "Created".to_owned()),
            State::Running => ("running", "Up".to_owned()),
            State::Exited(code) => ("exited", format!("Exited ({code})")),
        };
        json!({
            "Id": self.id, "Names": [format!("/{}", self.name)], "Image": self.spec["Image"],
            "Labels": self.labels(), "State": state, "Status": status, "Created": 0,
        })
    }

    pub fn inspected(&self) -> Value {
        let state = self.state();
        let running = state == State::Running;
        let code = match state {
            State::Exited(code) => code,
            _ => 0,
        };
        json!({
            "Id": self.id, "Name": format!("/{}", self.name), "Image": self.spec["Image"],
            "State": {
                "Status": self.summary()["State"], "Running": running, "ExitCode": code,
                "OOMKilled": false, "Paused": false, "Restarting": false, "Dead": false,
                "Error": "", "Pid": 0,
                "FinishedAt": self.finished_at(),
            },
            "Config": { "Labels": self.labels(), "User": self.spec["User"] },
            "HostConfig": self.spec["HostConfig"],
        })
    }

    /// The first moment of the calendar if its end was not seen, as the real ones have it.
    fn finished_at(&self) -> String {
        let at = *self.ended_at.lock().unwrap();
        at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
    }

    /// As if the host had gone down and podman had found the container in its state afterwards.
    pub fn lose_its_end(&self) {
        *self.ended_at.lock().unwrap() = None;
        self.state.send_replace(State::Exited(0));
    }

    /// The directory of the host that is `/data` inside.
    fn data(&self) -> Option<&Path> {
        let mounts = self.spec["HostConfig"]["Mounts"].as_array()?;
        let data = mounts.iter().find(|mount| mount["Target"] == "/data")?;
        Some(Path::new(data["Source"].as_str()?))
    }

    /// Starts the process; its supervisor is returned, to be run to its end.
    pub fn start(self: Arc<Self>) -> Result<impl Future<Output = ()> + use<>, String> {
        let script = self.root.join("run.sh");
        if !script.exists() {
            return Err("OCI runtime create failed: exec: \"/run.sh\": no such file".to_owned());
        }
        let data = self.data().unwrap_or(&self.root).to_owned();
        let mut command = Command::new("/bin/sh");
        command
            .arg(script)
            .current_dir(&data)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("DATA", &data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // Only root can be another user.
        if let (true, Some((uid, gid))) = (geteuid().is_root(), self.user()) {
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        *self.group.lock().unwrap() = group;
        self.state.send_replace(State::Running);
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Ok(async move {
            let ended = async {
                let status = child.wait().await.unwrap();
                // The end of a container's first process is the end of all of them.
                self.kill_all();
                self.group.lock().unwrap().take();
                status
            };
            let (status, (), ()) = tokio::join!(ended, self.copy(1, out), self.copy(2, err));
            let signal = status.signal().map_or(0, |signal| 128 + signal);
            let code = status.code().unwrap_or(signal);
            self.ended_at
                .lock()
                .unwrap()
                .get_or_insert_with(Timestamp::now);
            self.state.send_replace(State::Exited(i64::from(code)));
        })
    }

    fn user(&self) -> Option<(u32, u32)> {
        let (uid, gid) = self.spec["User"].as_str()?.split_once(':')?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    }

    async fn copy(&self, stream: u8, mut from: impl AsyncRead + Unpin) {
        // Less than the largest entry of an Engine's log, 16 KiB, after which a line goes on.
        let mut piece = vec![0; (16 << 10) - 1];
        while let Ok(n @ 1..) = from.read(&mut piece).await {
            let mut frame = BytesMut::with_capacity(8 + n);
            frame.put_slice(&[stream, 0, 0, 0]);
            frame.put_u32(n as u32);
            frame.put_slice(&piece[..n]);
            let frame = (Timestamp::now(), frame.freeze());
            self.frames.lock().unwrap().push(frame);
            self.more.send_modify(|count| *count += 1);
        }
    }

    /// The frame at `at`. A follower waits for it while the container runs, and is always `behind`
    /// frames behind, also at the end. With `timed`, its bytes come after its time.
    pub async fn frame(
        &self,
        at: usize,
        follow: bool,
        behind: usize,
        timed: bool,
    ) -> Option<Bytes> {
        let mut more = self.more.subscribe();
        let mut state = self.state.subscribe();
        if follow && self.state() == State::Running {
            tokio::select! {
                _ = more.wait_for(|count| *count > at + behind) => {}
                _ = state.wait_for(|state| *state != State::Running) => {}
            }
        }
        let frames = self.frames.lock().unwrap();
        let shown = frames.len().saturating_sub(behind);
        let (at, frame) = frames[..shown].get(at)?;
        Some(if timed {
            stamped(*at, frame)
        } else {
            frame.clone()
        })
    }

    /// The last frame, its line behind its time.
    pub fn last(&self) -> Option<Bytes> {
        let frames = self.frames.lock().unwrap();
        frames.last().map(|(at, frame)| stamped(*at, frame))
    }

    /// As if all that it did had been done that much earlier.
    pub fn age(&self, by: Duration) {
        for (at, _) in self.frames.lock().unwrap().iter_mut() {
            *at -= by;
        }
        if let Some(at) = self.ended_at.lock().unwrap().as_mut() {
            *at -= by;
        }
    }

    /// To its first process alone, as Docker does it.
    pub fn signal(&self, signal: Signal) {
        if let Some(first) = *self.group.lock().unwrap() {
            // One that has just ended needs no signal.
            let _ = kill_process(first, signal);
        }
    }

    pub fn kill_all(&self) {
        if let Some(group) = *self.group.lock().unwrap() {
            // A group that has just ended is as good as killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Its exit code, when it has ended; at once when it never ran.
    pub async fn ended(&self) -> i64 {
        let mut state = self.state.subscribe();
        let state = *state
            .wait_for(|state| *state != State::Running)
            .await
            .unwrap();
        match state {
            State::Exited(code) => code,
            _ => 0,
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// A frame with the time before its bytes.
fn stamped(at: Timestamp, frame: &Bytes) -> Bytes {
    let line = [format!("{at} ").as_bytes(), &frame[8..]].concat();
    let mut stamped = BytesMut::from(&frame[..4]);
    stamped.put_u32(line.len() as u32);
    stamped.put_slice(&line);
    stamped.freeze()
}
