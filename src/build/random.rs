//! Random ids.

use std::io;

/// 128 random bits as 32 hex digits: an id that no other has.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_hex() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(hex::encode(bytes))
}
