//! Random numbers that differ from run to run. The seed is printed when a test fails: the same seed
//! gives the same numbers, though not the same timing.

use std::time::SystemTime;

/// A generator of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        // Knuth's constants for a linear congruential generator of 64 bits.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// A seed by chance.
pub fn seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::from(since.unwrap().subsec_nanos())
}
