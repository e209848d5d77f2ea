//! What a faulty Engine does to a request, and the random choice of it.

use std::time::Duration;

use crate::support::dice::Dice;

/// What is done to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed; the Engine gets nothing.
    Refuse,
    /// The socket is away, and all connections are cut, for so long.
    Away(Duration),
    /// The Engine gets the request later.
    HoldRequest(Duration),
    /// The answer comes later.
    HoldAnswer(Duration),
    /// The answer is 500; the Engine gets nothing.
    Fail,
    /// The answer is 500, though the Engine has done it.
    FailAfter,
    /// The Engine has done it, and there is no answer.
    Lose,
    /// The answer ends after so many bytes, wherever that is.
    Cut(usize),
    /// The answer goes on no more after so many bytes, and the connection stays.
    Stall(usize),
    /// The answer ends in the middle of the first piece of its body.
    MidFrame,
    /// The answer ends in good order, with the first part of its body that is so long.
    End(usize),
    /// The Engine gets the request twice; the second answer counts.
    Twice,
    /// The answer is valid HTTP without a sensible content; the Engine gets nothing.
    Nonsense,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Refuse => "refused",
            Fault::Away(_) => "socket away",
            Fault::HoldRequest(_) => "request held",
            Fault::HoldAnswer(_) => "answer held",
            Fault::Fail => "500",
            Fault::FailAfter => "500 after it was done",
            Fault::Lose => "answer lost",
            Fault::Cut(_) => "cut",
            Fault::Stall(_) => "stalled",
            Fault::MidFrame => "cut in a frame",
            Fault::End(_) => "ended early",
            Fault::Twice => "twice",
            Fault::Nonsense => "nonsense",
        }
    }
}

/// How often something is done, and how it is chosen.
#[derive(Debug)]
pub struct Storm {
    pub dice: Dice,
    pub one_in: u64,
}

impl Storm {
    pub fn roll(&mut self, endpoint: &str) -> Option<Fault> {
        if self.dice.up_to(self.one_in) != 0 {
            return None;
        }
        let dice = &mut self.dice;
        let milliseconds = |dice: &mut Dice, from, more| from + dice.up_to(more);
        Some(match dice.up_to(15) {
            0 => Fault::Refuse,
            1 => Fault::Away(Duration::from_millis(milliseconds(dice, 100, 1000))),
            2 => Fault::HoldRequest(Duration::from_millis(milliseconds(dice, 50, 500))),
            3 => Fault::HoldAnswer(Duration::from_millis(milliseconds(dice, 50, 500))),
            // Longer than a health check of the Engine waits.
            4 => Fault::HoldAnswer(Duration::from_millis(2300)),
            5 => Fault::Fail,
            6 => Fault::FailAfter,
            7 => Fault::Lose,
            // In the head of the answer or soon after.
            8 => Fault::Cut(dice.up_to(300) as usize),
            9 => Fault::Cut(dice.up_to(5_000) as usize),
            10 => Fault::Cut(dice.up_to(400_000) as usize),
            11 => Fault::MidFrame,
            // What is no stream ends in good order at its end only.
            12 | 13 if endpoint == "kept logs" => Fault::MidFrame,
            12 => Fault::End(dice.up_to(2_000) as usize),
            13 => Fault::End(dice.up_to(300_000) as usize),
            // A container that has ended already would begin again, which was not asked for twice.
            _ if endpoint == "start" => Fault::Lose,
            _ => Fault::Twice,
        })
    }
}
