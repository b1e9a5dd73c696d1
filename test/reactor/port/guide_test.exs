defmodule Reactor.Port.GuideTest do
  use Reactor.PortCase, async: true

  @guide Path.expand("../../../docs/port.md", __DIR__)

  @tag :tmp_dir
  test "docs/port.md has a script and calls that are as it says", %{tmp_dir: directory} do
    guide = File.read!(@guide)
    [_, python] = Regex.run(~r/^```python\n(.*?)^```$/ms, guide)
    [_, elixir] = Regex.run(~r/^```elixir\n(.*?)^```$/ms, guide)
    script = write_script(directory, python)
    assert elixir =~ ~s("calculator.py")
    elixir |> String.replace("calculator.py", script) |> Code.eval_string([], file: @guide)
  end
end
