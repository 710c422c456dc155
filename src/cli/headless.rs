//! Drivers that complain where there is no desktop.

/// Keeps Mesa's device selection from asking a desktop which adapter is its own, where there is none to ask: it says
/// `error: XDG_RUNTIME_DIR is invalid or not set in the environment` on standard error then, as if this program had failed.
/// A choice of the user's is left alone. To be called before there is any other thread.
pub fn spare_device_selection() {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !cfg!(target_os = "linux") || is_set("XDG_RUNTIME_DIR") || is_set("MESA_VK_DEVICE_SELECT") {
        return;
    }
    // SAFETY: the caller runs no other thread that could read the environment meanwhile.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
}
