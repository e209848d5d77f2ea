//! The stream of an image build: objects of the Engine, one on each line.
#![no_main]

use mistry::docker::Progress;

libfuzzer_sys::fuzz_target!(|stream: &[u8]| {
    for step in mistry::docker::fuzzing::steps(stream) {
        match step {
            Progress::Container(id) => assert!(is_short_id(&id), "{id}"),
            Progress::Layer(layer) => assert!(is_short_id(&layer.id), "{}", layer.id),
            Progress::Text(text) => assert!(!text.is_empty()),
            Progress::Restarted => {}
        }
    }
});

fn is_short_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}
