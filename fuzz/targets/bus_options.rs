//! The options of the methods on the bus, `a{sv}` as D-Bus writes it.
#![no_main]

use std::collections::HashMap;

use zbus::OwnedVariant;
use zbus::wire::LE;
use zbus::wire::serialized::{Context, Data};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let message = Data::new(data, Context::new(LE, 0));
    let Ok((options, _)) = message.deserialize::<HashMap<String, OwnedVariant>>() else {
        return;
    };
    for sentence in mistry::dbus::fuzzing::refusals(&options)
        .into_iter()
        .flatten()
    {
        assert!(!sentence.is_empty());
        assert!(sentence.len() < 2_000, "{} bytes", sentence.len());
        assert!(!sentence.contains(char::is_control), "{sentence:?}");
    }
});
