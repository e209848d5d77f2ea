//! A log as plain text, for clients without a program to display it.

use super::escapes::{Escapes, Seen};

/// The text as displayed: without escape sequences, only the last state of a progress bar, and misleading
/// characters made visible. Control characters except tabs and line breaks become U+FFFD; those of
/// [`misleads`] become their code point, such as `<U+202E>`. Markup is neither added nor escaped.
pub fn readable(log: &str) -> String {
    let mut shown = String::with_capacity(log.len());
    let mut escapes = Escapes::default();
    let mut line = 0;
    // After a carriage return: the following text overwrites the line.
    let mut is_back = false;
    for letter in log.chars() {
        if letter == '\n' {
            escapes.end_line();
            shown.push('\n');
            line = shown.len();
            is_back = false;
            continue;
        }
        // The escape parser treats all non-ASCII characters alike.
        let byte = u8::try_from(letter).ok().filter(u8::is_ascii);
        if escapes.step(byte.unwrap_or(0x80)) != Seen::Text {
            continue;
        }
        if letter == '\r' {
            is_back = true;
            continue;
        }
        if std::mem::take(&mut is_back) {
            shown.truncate(line);
        }
        match letter {
            '\t' => shown.push('\t'),
            letter if misleads(letter) => shown.push_str(&format!("<U+{:04X}>", u32::from(letter))),
            letter if letter.is_control() => shown.push('\u{fffd}'),
            letter => shown.push(letter),
        }
    }
    shown
}

/// Whether a non-control character misleads: it is invisible, or changes the direction of the text around it.
/// The one list; `ODD` in `web/static/logrow.js` is the same with the controls.
pub fn misleads(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_log_reads_as_in_a_terminal_without_hidden_text() {
        for (log, shown) in [
            ("", ""),
            ("one\ntwo", "one\ntwo"),
            ("\u{1b}[1;31mred\u{1b}[0m\tplain\n", "red\tplain\n"),
            ("\u{1b}]8;;http://x/\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("10%\r20%\r100%\r\ndone\r\n\r\n", "100%\ndone\n\n"),
            ("10%\r\u{1b}[K20%\n", "20%\n"),
            ("\u{1b}[3\nnext", "\nnext"),
            ("a\u{8}\u{0}\u{9b}b", "a\u{fffd}\u{fffd}\u{fffd}b"),
            (
                "if \u{202e}x\u{2066} \u{61c}\u{200b}",
                "if <U+202E>x<U+2066> <U+061C><U+200B>",
            ),
            ("<script>&\u{e4}", "<script>&\u{e4}"),
        ] {
            assert_eq!(readable(log), shown, "{log:?}");
        }
    }

    proptest! {
        #[test]
        fn characters_that_mislead_a_reader_are_replaced_in_any_output(
            log in "(\\PC|[a\n\r\t\u{1b}\\[\\]m;\u{7}\u{9b}\u{202e}\u{200b}\u{2066}\u{e0041}\u{0}]){0,200}",
        ) {
            let shown = readable(&log);
            let is_fine = |letter: char| matches!(letter, '\n' | '\t') || !letter.is_control() && !misleads(letter);
            prop_assert!(shown.chars().all(is_fine), "{:?}", shown);
            prop_assert_eq!(
                shown.matches('\n').count(),
                log.matches('\n').count()
            );
            // Plain text is unchanged.
            prop_assert_eq!(&readable(&shown), &shown);
        }
    }
}
