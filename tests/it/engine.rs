//! The module `docker` against the fake Engine: its requests, and how it handles answers and their
//! absence.

use std::{collections::BTreeMap, path::Path, pin::pin};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use mistry::docker::{ContainerSpec, Docker, Error, ImageSpec, Limits, Stream};
use tokio::sync::mpsc;

use crate::support::{context::Context, engine::Engine};

const DOCKERFILE: &str = "FROM scratch\nCOPY run.sh /\nENTRYPOINT [\"/run.sh\"]\n";

struct Bench {
    engine: Engine,
    docker: Docker,
    data: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let engine = Engine::start().await;
        let docker = Docker::new(&engine.socket()).unwrap();
        let data = tempfile::tempdir().unwrap();
        Bench {
            engine,
            docker,
            data,
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("mistry.instance".to_owned(), "here".to_owned())])
    }

    fn image(&self) -> ImageSpec {
        ImageSpec {
            tag: "mistry-project".to_owned(),
            labels: self.labels(),
            build_args: BTreeMap::from([("uid".to_owned(), "1000".to_owned())]),
            optional_args: vec!["uid".to_owned()],
            target: String::new(),
            registries: mistry::docker::Registries::default(),
            network: "host".to_owned(),
            fresh: false,
            builder: mistry::docker::Builder::Auto,
            dockerfile: mistry::docker::Dockerfile::default(),
            secrets: mistry::docker::BuildSecrets::default(),
            scratch: std::path::PathBuf::new(),
        }
    }

    fn container(&self, image: &str) -> ContainerSpec {
        let own = (rustix::process::geteuid(), rustix::process::getegid());
        ContainerSpec {
            name: "mistry-one".to_owned(),
            image: image.to_owned(),
            labels: self.labels(),
            user: format!("{}:{}", own.0.as_raw(), own.1.as_raw()),
            cap_drop: Vec::new(),
            data: self.data.path().to_owned(),
            mounts: BTreeMap::new(),
            network: "host".to_owned(),
            limits: Limits::default(),
            options: mistry::docker::RunOptions::default(),
            environment: Vec::new(),
            log_bytes: 1 << 20,
            slice: None,
        }
    }

    async fn build(&self, spec: &ImageSpec, context: &Context) -> (Result<String, Error>, String) {
        context.build(&self.docker, spec).await
    }

    async fn script(&self, script: &str) -> String {
        let context = Context::of(DOCKERFILE).script("run.sh", script);
        self.build(&self.image(), &context).await.0.unwrap()
    }
}

#[tokio::test]
async fn an_image_is_built_as_asked_and_found_by_its_labels() {
    let bench = Bench::new().await;
    let image = bench.script("true").await;
    let found = bench.docker.labelled_images(&bench.labels()).await.unwrap();
    assert_eq!(found, [image]);
    let other = BTreeMap::from([("mistry.instance".to_owned(), "there".to_owned())]);
    assert_eq!(bench.docker.labelled_images(&other).await.unwrap(), [""; 0]);
    let build = &bench.engine.builds()[0];
    assert_eq!(
        (build.tag.as_str(), build.network.as_str()),
        ("mistry-project", "host")
    );
    assert_eq!(build.build_args["uid"], "1000");
    assert!(!build.nocache && !build.pull);
    assert!(build.files.contains("run.sh"));
}

#[tokio::test]
async fn a_container_runs_in_its_data_and_both_streams_come_back() {
    let bench = Bench::new().await;
    let image = bench
        .script("echo out; echo err >&2; echo kept > ${DATA:-/data}/file; exit 7")
        .await;
    let id = bench.docker.create(&bench.container(&image)).await.unwrap();
    bench.docker.start(&id).await.unwrap();
    let (exit, pieces) = tokio::join!(
        bench.docker.wait(&id),
        bench
            .docker
            .logs(&id, Default::default())
            .try_collect::<Vec<_>>()
    );
    assert_eq!(exit.unwrap().code, 7);
    let text = |stream| -> Vec<u8> {
        let pieces = pieces.as_ref().unwrap().iter();
        pieces
            .filter(|p| p.stream == stream)
            .flat_map(|p| p.bytes.to_vec())
            .collect()
    };
    assert_eq!(text(Stream::Stdout), b"out\n");
    assert_eq!(text(Stream::Stderr), b"err\n");
    assert_eq!(
        std::fs::read(bench.data.path().join("file")).unwrap(),
        b"kept\n"
    );
    bench.docker.remove(&id).await.unwrap();
    bench.docker.remove(&id).await.unwrap();
    let seen = &bench.engine.containers()[0];
    assert!(seen.removed);
    assert_eq!(seen.labels, bench.labels());
    assert_eq!(seen.spec["HostConfig"]["LogConfig"]["Type"], "local");
}

#[tokio::test]
async fn what_a_follower_loses_at_the_end_is_read_again_and_nothing_twice() {
    let bench = Bench::new().await;
    bench.engine.lose_log_ends(true);
    let image = bench.script("echo one; echo two >&2; printf three").await;
    let id = bench.docker.create(&bench.container(&image)).await.unwrap();
    bench.docker.start(&id).await.unwrap();
    let pieces: Vec<_> = bench
        .docker
        .logs(&id, Default::default())
        .try_collect()
        .await
        .unwrap();
    let bytes = |stream| -> Vec<u8> {
        let pieces = pieces.iter().filter(|piece| piece.stream == stream);
        pieces.flat_map(|piece| piece.bytes.to_vec()).collect()
    };
    assert_eq!(bytes(Stream::Stdout), b"one\nthree");
    assert_eq!(bytes(Stream::Stderr), b"two\n");
}

#[tokio::test]
async fn a_failing_image_build_reports_the_reason_and_leaves_no_image() {
    let bench = Bench::new().await;
    for (dockerfile, reason) in [
        ("FROM scratch\nRUN false\n", "non-zero code: 1"),
        ("FROM scratch\nNONSENSE\n", "unknown instruction: NONSENSE"),
    ] {
        let (built, output) = bench.build(&bench.image(), &Context::of(dockerfile)).await;
        let Err(Error::Build(said)) = built else {
            panic!("{built:?}")
        };
        assert!(said.contains(reason), "{said}");
        assert_eq!(
            output.contains("Step 2/2 : RUN false"),
            dockerfile.contains("RUN")
        );
    }
    assert!(bench.engine.images().is_empty());
    assert_eq!(bench.engine.builds().len(), 2);
}

#[tokio::test]
async fn a_truncated_context_is_distinguished_from_a_failing_build() {
    let bench = Bench::new().await;
    let (output, _text) = mpsc::channel(1);
    let context = |_: &[mistry::docker::Patch]| {
        stream::iter([
            Ok(Bytes::from_static(b"x")),
            Err(std::io::Error::other("torn")),
        ])
    };
    let error = bench
        .docker
        .build_image(&bench.image(), context, output)
        .await
        .unwrap_err();
    let Error::Context(source) = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "torn");
}

#[tokio::test]
async fn a_fresh_build_pulls_and_falls_back_to_the_base_on_this_host() {
    let bench = Bench::new().await;
    let spec = ImageSpec {
        fresh: true,
        ..bench.image()
    };
    let context = Context::of("FROM bbox\nRUN echo anew\n");
    bench.build(&spec, &context).await.0.unwrap();
    bench.engine.registry(false);
    let (built, output) = bench.build(&spec, &context).await;
    built.unwrap();
    assert!(output.contains("could not be pulled"), "{output}");
    assert!(output.contains("anew"), "{output}");
    let asked: Vec<_> = bench
        .engine
        .builds()
        .iter()
        .map(|b| (b.pull, b.nocache))
        .collect();
    assert_eq!(asked, [(true, true), (true, true), (false, true)]);
    // A step that fails after the base was pulled is not retried.
    bench.engine.registry(true);
    let (built, _) = bench
        .build(&spec, &Context::of("FROM bbox\nRUN false\n"))
        .await;
    assert!(matches!(built, Err(Error::Build(_))));
    assert_eq!(bench.engine.builds().len(), 4);

    // The tag went to the second image; the first has none.
    let images = bench.docker.images().await.unwrap();
    let [without] = &images
        .iter()
        .filter(|image| image.names.is_empty())
        .collect::<Vec<_>>()[..]
    else {
        panic!("{images:?}")
    };
    assert!(bench.docker.remove_image(&without.id).await.unwrap());
    assert_eq!(bench.engine.images().len(), 1);
}

#[tokio::test]
async fn each_refusal_has_its_own_error() {
    let bench = Bench::new().await;
    let spec = bench.container("sha256:nowhere");
    let error = bench.docker.create(&spec).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchImage(_)), "{error:?}");
    let spec = bench.container(&bench.script("true").await);
    bench.docker.create(&spec).await.unwrap();
    let error = bench.docker.create(&spec).await.unwrap_err();
    assert!(matches!(error, Error::NameTaken(_)), "{error:?}");
    let nowhere = ContainerSpec {
        cap_drop: Vec::new(),
        data: Path::new("/nonexistent").to_owned(),
        ..spec.clone()
    };
    let error = bench.docker.create(&nowhere).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    for error in [
        bench.docker.start("unknown").await.unwrap_err(),
        bench.docker.wait("unknown").await.unwrap_err(),
        bench.docker.kill("unknown").await.unwrap_err(),
        pin!(bench.docker.logs("unknown", Default::default()))
            .next()
            .await
            .unwrap()
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoSuchContainer(_)), "{error:?}");
    }
    bench.engine.fail_next("create", 500);
    let error = bench.docker.create(&spec).await.unwrap_err();
    assert!(matches!(error, Error::Api { .. }), "{error:?}");
}

#[tokio::test]
async fn an_engine_that_stops_is_unreachable_and_works_again_when_it_is_back() {
    let bench = Bench::new().await;
    let image = bench.script("true").await;
    bench.engine.stop().await;
    let error = bench.docker.ping().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let error = bench
        .docker
        .create(&bench.container(&image))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    // It comes back with a newer API that refuses the old version.
    bench.engine.speak(53, 44);
    bench.engine.start_again();
    bench.docker.ping().await.unwrap();
    bench.docker.create(&bench.container(&image)).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_goes_away_while_a_container_runs_is_unreachable() {
    let bench = Bench::new().await;
    let image = bench.script("echo up; read line < pipe; exit 3").await;
    let pipe = bench.data.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let id = bench.docker.create(&bench.container(&image)).await.unwrap();
    bench.docker.start(&id).await.unwrap();
    let mut logs = pin!(bench.docker.logs(&id, Default::default()));
    assert_eq!(&logs.next().await.unwrap().unwrap().bytes[..], b"up\n");
    let stop = async {
        bench.engine.wait_for("wait", 1).await;
        bench.engine.stop().await;
    };
    let (exit, ()) = tokio::join!(bench.docker.wait(&id), stop);
    assert!(matches!(exit, Err(Error::Unreachable { .. })), "{exit:?}");
    let cut = logs.next().await.unwrap();
    assert!(matches!(cut, Err(Error::Unreachable { .. })), "{cut:?}");
    bench.engine.start_again();
    let go = tokio::task::spawn_blocking(move || std::fs::write(pipe, "go\n"));
    assert_eq!(bench.docker.wait(&id).await.unwrap().code, 3);
    go.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_running_container_is_found_and_killed_with_its_children() {
    let bench = Bench::new().await;
    let image = bench.script("echo up; sleep 600 & wait").await;
    let id = bench.docker.create(&bench.container(&image)).await.unwrap();
    bench.docker.start(&id).await.unwrap();
    let mut logs = pin!(bench.docker.logs(&id, Default::default()));
    assert_eq!(&logs.next().await.unwrap().unwrap().bytes[..], b"up\n");
    let found = bench.docker.containers(&bench.labels()).await.unwrap();
    assert_eq!((&found[0].id, found[0].running), (&id, true));
    let (exit, killed) = tokio::join!(bench.docker.wait(&id), bench.docker.kill(&id));
    killed.unwrap();
    assert_eq!(exit.unwrap().code, 137);
    assert!(logs.next().await.is_none());
    bench.docker.kill(&id).await.unwrap();
}

#[tokio::test]
async fn a_gate_holds_a_call_until_it_is_released() {
    let bench = Bench::new().await;
    let image = bench.script("true").await;
    let id = bench.docker.create(&bench.container(&image)).await.unwrap();
    bench.engine.hold("start");
    let watch = async {
        bench.engine.wait_for("start", 1).await;
        assert!(!bench.engine.containers()[0].running);
        bench.engine.release("start");
    };
    let (started, ()) = tokio::join!(bench.docker.start(&id), watch);
    started.unwrap();
    assert_eq!(bench.docker.wait(&id).await.unwrap().code, 0);
}
