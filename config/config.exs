import Config

# Options belong to `Reactor.start/2`; nothing here but what the tests need.
if config_env() == :test do
  # `capture_log` in test_helper.exs shows the log of a test that fails.
  config :logger, level: :debug
end
