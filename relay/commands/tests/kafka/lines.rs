//! What was logged.

use std::{
    io::{self, Write},
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The lines of this test process, for warnings and what weighs more.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// From now on they are kept.
    pub(crate) fn kept() -> &'static Self {
        static KEPT: OnceLock<Lines> = OnceLock::new();
        KEPT.get_or_init(|| {
            let lines = Self::default();
            let writer = lines.clone();
            // `JANGBU_TEST_LOG=relay_commands=debug` shows more.
            let shown = EnvFilter::builder()
                .with_default_directive(LevelFilter::WARN.into())
                .with_env_var("JANGBU_TEST_LOG")
                .from_env_lossy();
            tracing_subscriber::fmt()
                .with_env_filter(shown)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            lines
        })
    }

    pub(crate) fn hold(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(text)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        // Shown with a test that fails.
        print!("{}", String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
