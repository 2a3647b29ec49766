//! Asks the terminal for its width and for what it can draw.

#[cfg(unix)]
pub use unix::{answer, columns};

/// The width of the terminal in cells.
#[cfg(not(unix))]
pub fn columns() -> Option<u32> {
    None
}

/// The terminal's reply.
#[cfg(not(unix))]
pub fn answer() -> Option<String> {
    None
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io::{IsTerminal, Read, Write};

    use rustix::termios::{OptionalActions, SpecialCodeIndex, tcgetattr, tcgetwinsize, tcsetattr};

    /// Tries kitty's protocol on an image of one pixel, then asks for the attributes of the device, to
    /// which every terminal replies, last.
    const QUESTION: &[u8] = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c";
    /// Maximum bytes of a reply.
    const LONGEST: usize = 256;
    /// How long to wait for the next byte, in tenths of a second.
    const PATIENCE: u8 = 3;

    /// The width of the terminal in cells.
    pub fn columns() -> Option<u32> {
        let size = tcgetwinsize(std::io::stdout()).ok()?;
        Some(u32::from(size.ws_col)).filter(|columns| *columns > 0)
    }

    /// The terminal's reply; `None` if there is no terminal or it stays silent.
    pub fn answer() -> Option<String> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let mut terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = PATIENCE;
        tcsetattr(&terminal, OptionalActions::Flush, &raw).ok()?;
        let answer = ask(&mut terminal);
        // What cannot be undone here, the line editor sets anew.
        let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
        answer
    }

    fn ask(terminal: &mut File) -> Option<String> {
        terminal.write_all(QUESTION).ok()?;
        let (mut reply, mut byte) = (Vec::new(), [0]);
        while reply.len() < LONGEST && terminal.read(&mut byte).ok()? == 1 {
            reply.push(byte[0]);
            // The attributes end with a letter that nothing before them has after ESC [.
            let attributes = reply.windows(3).rposition(|bytes| bytes == b"\x1b[?");
            if byte == *b"c" && attributes.is_some() {
                return String::from_utf8(reply).ok();
            }
        }
        None
    }
}
