//! The state of a container of podman, which bollard does not read: podman calls a container `stopped` that has ended
//! and is not cleaned up yet.

use bollard::models::{ContainerState, ContainerStateStatusEnum};
use http_body_util::{BodyExt, Empty};
use serde::Deserialize;

use super::engine::{CALL_TIMEOUT, Docker};
use super::error::{Cause, Error};

/// The largest answer that is read, which is one line: most of it are labels and mounts.
const MAX_ANSWER: usize = 4 << 20;

/// The words of podman about a container that is not there.
const NO_SUCH_CONTAINER: &str = "no such container";

/// The part of the answer that is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    #[serde(default)]
    running: bool,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    finished_at: Option<String>,
}

impl Docker {
    /// The state of a container of podman, in Docker's words.
    pub(super) async fn podman_state(
        &self,
        operation: &'static str,
        container: &str,
    ) -> Result<ContainerState, Error> {
        let api = |source: Cause| Error::Api {
            operation: operation.to_owned(),
            source,
        };
        let request = hyper::Request::get(format!("/containers/{container}/json"))
            .header("host", "docker")
            .body(Empty::new().map_err(|never| match never {}))
            .map_err(|error| api(error.into()))?;
        let asking = async {
            let mut answer = match self.send(operation, MAX_ANSWER, request).await? {
                Ok(answer) => answer,
                Err(Some(said)) if said.contains(NO_SUCH_CONTAINER) => {
                    return Err(Error::NoSuchContainer(container.to_owned()));
                }
                Err(said) => return Err(api(said.unwrap_or_default().into())),
            };
            let body = answer.next_line().await.transpose()?;
            serde_json::from_str::<Inspected>(&body.unwrap_or_default())
                .map_err(|error| api(error.into()))
        };
        let inspected = self.within(CALL_TIMEOUT, operation, asking).await??;
        Ok(in_dockers_words(inspected.state))
    }
}

/// The beginning of the time at which a container ended whose end podman has not seen: it ran when the host went
/// down. Its exit code means nothing then.
const UNSEEN_END: &str = "0001-";

/// The exit code that Docker gives such a container.
const UNSEEN_EXIT_CODE: i64 = 255;

fn in_dockers_words(state: State) -> ContainerState {
    use ContainerStateStatusEnum::{CREATED, EXITED, PAUSED, RUNNING};
    let status = match state.status.as_str() {
        "created" | "configured" | "initialized" => CREATED,
        "paused" => PAUSED,
        "stopped" | "exited" | "removing" => EXITED,
        _ => RUNNING,
    };
    let finished_at = state.finished_at.filter(|at| !at.starts_with(UNSEEN_END));
    let is_unseen = status == EXITED && finished_at.is_none();
    ContainerState {
        status: Some(status),
        running: Some(state.running),
        exit_code: Some(match is_unseen {
            true => UNSEEN_EXIT_CODE,
            false => state.exit_code,
        }),
        oom_killed: Some(state.oom_killed),
        finished_at,
        ..ContainerState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_has_ended_and_is_not_cleaned_up_has_ended() {
        let answer = r#"{"Id": "0403", "State": {"Status": "stopped", "Running": false,
            "OOMKilled": true, "Dead": false, "Pid": 0, "ExitCode": 137,
            "FinishedAt": "2026-11-30T23:32:24.588793594Z"}}"#;
        let inspected: Inspected = serde_json::from_str(answer).unwrap();
        let state = in_dockers_words(inspected.state);
        assert_eq!(state.status, Some(ContainerStateStatusEnum::EXITED));
        assert_eq!((state.exit_code, state.oom_killed), (Some(137), Some(true)));
        assert!(state.finished_at.is_some());
    }

    #[test]
    fn a_container_that_ran_when_the_host_went_down_did_not_succeed() {
        let answer = r#"{"State": {"Status": "exited", "Running": false, "ExitCode": 0,
            "FinishedAt": "0001-01-01T00:00:00Z"}}"#;
        let inspected: Inspected = serde_json::from_str(answer).unwrap();
        let state = in_dockers_words(inspected.state);
        assert_eq!((state.exit_code, state.finished_at), (Some(255), None));
        let running = answer.replace("exited", "running");
        let inspected: Inspected = serde_json::from_str(&running).unwrap();
        let state = in_dockers_words(inspected.state);
        assert_eq!((state.exit_code, state.finished_at), (Some(0), None));
    }
}
