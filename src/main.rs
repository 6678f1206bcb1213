//! The vhost-user-zbd program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vhost_user_zbd::cli::run(std::env::args_os())
}
