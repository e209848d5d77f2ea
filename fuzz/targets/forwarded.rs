//! The client that a trusted proxy names: `Forwarded`, `X-Forwarded-For`, and after these two lines the
//! first bytes of a connection, which may be a header of the PROXY protocol.
#![no_main]

use mistry::web::fuzzing::{client_of, proxy_header};
use mistry_fuzz::lines;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [forwarded, x_forwarded_for, bytes] = lines(data);
    if let Some(client) = client_of(forwarded, x_forwarded_for) {
        assert_eq!(client, client.to_canonical(), "one client has one address");
        // What a client has written itself stands before what the proxy adds, and changes nothing.
        let added = b"192.0.2.200";
        let list = [x_forwarded_for, b", ", added].concat();
        let valid = |byte: &u8| (0x20..0x7f).contains(byte);
        if x_forwarded_for.iter().all(valid) {
            let named = client_of(b"", &list).map(|client| client.to_string());
            assert_eq!(named.as_deref(), Some("192.0.2.200"));
        }
    }
    match proxy_header(bytes) {
        Some((length, client)) => {
            assert!(length <= bytes.len() && length > 0);
            let alone = proxy_header(&bytes[..length]);
            assert_eq!(
                alone,
                Some((length, client)),
                "what follows a header changes nothing"
            );
            assert!(bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
        }
        None => {}
    }
});
