fn main() -> std::process::ExitCode {
    unisys::cli::main()
}
