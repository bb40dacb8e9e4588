//! The `moepress` binary; everything it does is in `moepress-cli`.

fn main() -> std::process::ExitCode {
    moepress_cli::main()
}
