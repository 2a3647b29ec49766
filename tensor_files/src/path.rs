//! Parameter names.

/// The name of the parameter that a visitor or mapper is at: its fields, joined by dots.
///
/// Variants of enums are not part of it.
#[derive(Clone, Debug, Default)]
pub struct ParamPath(Vec<String>);

impl ParamPath {
    /// To call in `enter_module`.
    pub fn enter(&mut self, name: &str, container_type: &str) {
        if !is_variant(container_type) {
            self.0.push(name.to_owned());
        }
    }

    /// To call in `exit_module`.
    pub fn exit(&mut self, container_type: &str) {
        if !is_variant(container_type) {
            self.0.pop();
        }
    }

    /// The name.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Whether `container_type` names a variant of an enum, as Burn's derived visitors report it.
fn is_variant(container_type: &str) -> bool {
    container_type.starts_with("Enum:")
}
