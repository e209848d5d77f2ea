//! Many builds, several at once, behind a Docker Engine that is faulty all the time: each ends with the
//! right outcome and all that its container wrote, or with a sentence about the Engine. How often which
//! fault was done, and how the builds ended, is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Setup};
use crate::support::dice;
use crate::support::engine::{Engine, socket};
use crate::support::foreign::ForeignObjects;
use crate::support::http::Answer;
use crate::support::proxy::Proxy;
use crate::support::{Place, names};

/// Concurrent clients; more than there are slots.
const ASKERS: usize = 6;
/// One request to the Engine of so many is not answered as it should.
const ONE_IN: u64 = 6;
/// Lines of builds that print little, and of those that print some hundred KB on both outputs.
const LINES: usize = 60;
const MANY_LINES: usize = 6_000;

const DOTS: &str = "........................................";

/// Each execution writes a word of its own into its log and its result. Its last line has no end.
fn script() -> String {
    format!(
        "word=$(cat /proc/sys/kernel/random/uuid)
        job=$(cat params/job); lines=$(cat params/lines)
        echo \"$job $word\" >> cache/chain
        echo \"begin $job $word\"
        n=0
        while [ $n -lt $lines ]; do
            case $((n % 3)) in
                0) echo \"err $n $word {DOTS}\" >&2 ;;
                *) echo \"out $n $word {DOTS}\" ;;
            esac
            n=$((n + 1))
            [ $((n % 300)) != 0 ] || sleep 0.05
        done
        echo \"$job $word\" > artifacts/made
        cp cache/chain artifacts/chain
        printf \"end $word\"
        exit $(cat params/code)"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a project, and an image, of its own.
    Cold,
    /// Begun as the last one of its group ended.
    Incremental,
    /// Ends with an exit code.
    Failing,
    /// Two ask for it.
    Coalesced,
    /// Asked for without waiting.
    Async,
    /// Prints a lot.
    Loud,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Cold,
        Kind::Incremental,
        Kind::Failing,
        Kind::Coalesced,
        Kind::Async,
        Kind::Loud,
    ];
}

/// One job.
#[derive(Clone, Debug)]
struct Job {
    kind: Kind,
    number: usize,
    project: String,
    code: i64,
    lines: usize,
}

impl Job {
    fn of(kind: Kind, number: usize) -> Job {
        Job {
            kind,
            number,
            project: match kind {
                Kind::Cold => format!("cold-{number}"),
                _ => "shared".to_owned(),
            },
            code: if kind == Kind::Failing { 7 } else { 0 },
            lines: if kind == Kind::Loud {
                MANY_LINES
            } else {
                LINES
            },
        }
    }

    fn request(&self) -> Value {
        let group = if self.kind == Kind::Incremental {
            "g"
        } else {
            ""
        };
        json!({"project": self.project, "group": group, "params": {
            "job": self.number.to_string(),
            "code": self.code.to_string(),
            "lines": self.lines.to_string(),
        }})
    }
}

/// How a job ended, where that was right.
#[derive(Debug)]
enum Verdict {
    /// With the words of its execution, and of those that it stands on.
    Right(Vec<String>),
    /// With this sentence.
    Said(String),
}

/// Sends the request, and again where the Engine was unreachable.
#[expect(
    clippy::disallowed_methods,
    reason = "a client that is refused for now comes back later"
)]
fn ask(daemon: &Daemon, path: &str, job: &Job, refused: &AtomicUsize) -> Answer {
    loop {
        let answer = daemon.post(path, &job.request());
        if answer.status != 503 || !answer.text().contains("Docker Engine") {
            return answer;
        }
        refused.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Builds a job and checks the result.
fn build(daemon: &Daemon, job: &Job, refused: &AtomicUsize) -> Result<Verdict, String> {
    let path = if job.kind == Kind::Async {
        "/jobs?async"
    } else {
        "/jobs"
    };
    let mut answers = Vec::new();
    if job.kind == Kind::Coalesced {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| ask(daemon, path, job, refused));
            answers.push(ask(daemon, path, job, refused));
            answers.push(other.join().unwrap());
        });
    } else {
        answers.push(ask(daemon, path, job, refused));
    }
    let mut id = String::new();
    for answer in &answers {
        let body = answer.json();
        let found = if answer.status == 201 {
            &body["ID"]
        } else {
            &body["job"]
        };
        let found = found
            .as_str()
            .ok_or_else(|| format!("{}: {body}", answer.status))?;
        id = found.to_owned();
    }
    let info = daemon.wait(&job.project, &id);
    for answer in answers.iter().filter(|answer| answer.status == 201) {
        let body = answer.json();
        // A success in an answer is the success on disk.
        if body["Outcome"] == "succeeded" && body["StartedAt"] != info["StartedAt"] {
            return Err(format!("two successes: {body:#} and {info:#}"));
        }
    }
    check(daemon, job, &id, &info)
}

fn check(daemon: &Daemon, job: &Job, id: &str, info: &Value) -> Result<Verdict, String> {
    let ready = daemon.ready(&job.project, id);
    let log = fs::read(ready.join("out.log")).map_err(|error| error.to_string())?;
    let log = String::from_utf8_lossy(&log);
    let failure = |what: &str| format!("{what}: {job:?}\n{info:#}\n{}", short(&log));
    if info["Outcome"] == "errored" {
        let said = info["Err"].as_str().unwrap_or_default();
        if !log.ends_with(&format!("mistry: {said}\n")) {
            return Err(failure("the log does not say why"));
        }
        let is_clear = ["Engine", "docker", "container"]
            .iter()
            .any(|word| said.contains(word));
        return match is_clear {
            true => Ok(Verdict::Said(said.to_owned())),
            false => Err(failure("an error that is not expected")),
        };
    }
    let outcome = if job.code == 0 { "succeeded" } else { "failed" };
    if info["Outcome"] != outcome || info["ExitCode"] != job.code {
        return Err(failure("a wrong outcome"));
    }
    let artifacts = ready.join("data/artifacts");
    if names(&artifacts) != ["chain", "made"] {
        return Err(failure("other artifacts"));
    }
    let made = fs::read_to_string(artifacts.join("made")).unwrap_or_default();
    let word = match made
        .strip_suffix('\n')
        .and_then(|made| made.split_once(' '))
    {
        Some((number, word)) if number == job.number.to_string() => word.to_owned(),
        _ => return Err(failure("artifacts of another")),
    };
    let chain = fs::read_to_string(artifacts.join("chain")).unwrap_or_default();
    if !chain.ends_with(&made) || (job.kind != Kind::Incremental && chain != made) {
        return Err(failure("artifacts of two executions"));
    }
    is_whole(&log, job, &word).map_err(|what| failure(&what))?;
    let words = chain.lines().filter_map(|line| line.split_once(' '));
    Ok(Verdict::Right(
        words.map(|(_, word)| word.to_owned()).collect(),
    ))
}

/// Whether a log holds, after what there was of images and lost attempts, all that the execution with
/// this word has printed, each output in its order, and nothing else.
fn is_whole(log: &str, job: &Job, word: &str) -> Result<(), String> {
    let begins = [
        format!("begin {} {word}\n", job.number),
        format!("err 0 {word} "),
    ];
    let at = begins.iter().filter_map(|begin| log.find(begin)).min();
    let (before, printed) = log.split_at(at.ok_or("it does not begin")?);
    // A line of mistry separates the output of a lost attempt from that of this one.
    let since = before.rsplit("mistry: the build was interrupted").next();
    if since.is_some_and(|since| since.contains("begin ") || since.contains(DOTS)) {
        return Err("it holds another execution".to_owned());
    }
    let last = format!("end {word}");
    if printed.matches(&last).count() != 1 {
        return Err(format!("{} ends", printed.matches(&last).count()));
    }
    // Its line may go on with one of the other output.
    let printed = printed.replacen(&last, "", 1);
    let is_err = |line: &&str| line.starts_with("err ");
    let (err, out): (Vec<_>, Vec<_>) = printed.lines().partition(is_err);
    let line = |kind: &str, n| format!("{kind} {n} {word} {DOTS}");
    let numbers = 0..job.lines;
    let (for_err, for_out): (Vec<_>, Vec<_>) = numbers.partition(|n| n % 3 == 0);
    let wanted_err: Vec<_> = for_err.into_iter().map(|n| line("err", n)).collect();
    let mut wanted_out = vec![format!("begin {} {word}", job.number)];
    wanted_out.extend(for_out.into_iter().map(|n| line("out", n)));
    for (found, wanted) in [(err, wanted_err), (out, wanted_out)] {
        let differs = (0..found.len().max(wanted.len()))
            .find(|n| found.get(*n).copied() != wanted.get(*n).map(String::as_str));
        if let Some(n) = differs {
            let (found, wanted) = (found.get(n), wanted.get(n));
            return Err(format!("line {n} is {found:?} and not {wanted:?}"));
        }
    }
    Ok(())
}

/// The two ends of a log.
fn short(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    if lines.len() < 60 {
        return log.to_owned();
    }
    let marks = lines.iter().filter(|line| line.contains("mistry:"));
    let marks: Vec<_> = marks.copied().collect();
    format!(
        "{}\n…\n{}\n…\n{}",
        lines[..20].join("\n"),
        marks.join("\n"),
        lines[lines.len() - 20..].join("\n")
    )
}

/// Prints how the builds ended, and fails where one is wrong or stands on a lost execution.
fn check_verdicts(ended: &[(Job, Result<Verdict, String>)], seed: u64) {
    let (mut right, mut wrong) = (0, Vec::new());
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    let mut own = BTreeSet::new();
    for (job, verdict) in ended {
        match verdict {
            Ok(Verdict::Right(words)) => {
                right += 1;
                own.extend(words.last().filter(|_| job.kind == Kind::Incremental));
            }
            Ok(Verdict::Said(sentence)) => {
                *said.entry(sentence).or_default() += 1;
            }
            Err(error) => wrong.push(error),
        }
    }
    println!(
        "{} builds: {right} right outcomes, {} clear errors, {} wrong",
        ended.len(),
        said.values().sum::<usize>(),
        wrong.len(),
    );
    for (sentence, count) in &said {
        println!("  {count:4} {sentence}");
    }
    assert!(wrong.is_empty(), "seed {seed}: {}", wrong[0]);
    // An execution that was lost has left nothing that another stands on.
    for (job, verdict) in ended {
        if let Ok(Verdict::Right(words)) = verdict {
            let strange = words
                .iter()
                .find(|word| job.kind == Kind::Incremental && !own.contains(word));
            assert_eq!(
                strange, None,
                "seed {seed}: {job:?} stands on what was lost"
            );
        }
    }
}

#[test]
fn builds_under_a_faulty_engine_end_right_or_with_a_clear_error_and_never_with_a_wrong_success() {
    let builds = match std::env::var_os("MISTRY_SOAK") {
        Some(_) => 200,
        None => 30,
    };
    let began = Instant::now();
    let seed = dice::seed();
    let foreign = ForeignObjects::with_image_like("shared");
    let engine = Engine::new();
    let proxy = Proxy::before(&socket());
    // The last ones run without faults.
    let job = |number: usize| Job::of(Kind::ALL[number % Kind::ALL.len()], number);
    let all = builds + Kind::ALL.len();
    let mut setup = Setup::on(Place::Host)
        .docker_host(proxy.host())
        .script("shared", &script());
    for cold in (0..all).map(job).filter(|job| job.kind == Kind::Cold) {
        setup = setup.script(&cold.project, &format!("# {}\n{}", cold.project, script()));
    }
    let mut daemon = setup.start();

    let refused = AtomicUsize::new(0);
    let ended: Mutex<Vec<(Job, Result<Verdict, String>)>> = Mutex::default();
    let next = AtomicUsize::new(0);
    proxy.storm(seed, ONE_IN);
    std::thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= builds {
                        return;
                    }
                    let job = job(number);
                    let verdict = build(&daemon, &job, &refused);
                    ended.lock().unwrap().push((job, verdict));
                }
            });
        }
    });
    proxy.calm();
    for number in builds..all {
        let job = job(number);
        let verdict = build(&daemon, &job, &refused);
        assert!(
            matches!(verdict, Ok(Verdict::Right(_))),
            "{job:?}: {verdict:?}"
        );
        ended.lock().unwrap().push((job, verdict));
    }

    let ended = ended.into_inner().unwrap();
    println!(
        "{} s, seed {seed}; {} faults; {} times refused with 503",
        began.elapsed().as_secs(),
        proxy.faults(),
        refused.into_inner(),
    );
    println!("{}", proxy.summary());
    check_verdicts(&ended, seed);

    daemon.end();
    assert!(engine.containers(&daemon.label()).is_empty(), "seed {seed}");
    for project in names(&daemon.builds())
        .iter()
        .filter(|name| !name.starts_with('.'))
    {
        let pending = daemon.builds().join(project).join("pending");
        assert!(names(&pending).is_empty(), "seed {seed}: {project}");
    }
    assert!(names(&daemon.builds().join(".mistry/trash")).is_empty());
    foreign.assert_unchanged();
}
