//! How many ids are guessed ahead of the model.

/// The number of ids that are guessed and checked in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// None: one id per pass.
    Off,
    /// This many.
    Fixed(usize),
    /// As many as measured costs and hits make worth while.
    #[default]
    Auto,
}

/// SHIM
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// a
    Image,
    /// b
    Text,
}
/// SHIM
#[derive(Debug)]
pub struct WindowPolicy(Window);
impl WindowPolicy {
    /// a
    pub fn new(window: Window) -> Self {
        Self(window)
    }
    /// a
    pub fn record_pass(&mut self, _rows: usize, _seconds: f64) {}
    /// a
    pub fn record_walk(&mut self, _kind: Kind, _guessed: usize, _kept: usize) {}
    /// a
    pub fn choose(&mut self, _kind: Kind, _lanes: usize, _other: usize, max: usize) -> usize {
        match self.0 {
            Window::Off => 0,
            Window::Fixed(n) => n.min(max),
            Window::Auto => 8.min(max),
        }
    }
}
/// SHIM
pub fn lookup(_ids: &[u32], _is: impl Fn(u32) -> bool) -> Vec<u32> {
    Vec::new()
}
