defmodule Mix.Tasks.Reactor.DoctorTest do
  # Mix has one shell.
  use ExUnit.Case, async: false

  setup do
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)
    on_exit(fn -> Mix.shell(shell) end)
  end

  defp run(arguments), do: Mix.Tasks.Reactor.Doctor.run(arguments)

  defp printed(lines \\ []) do
    receive do
      {:mix_shell, :info, [line]} -> printed([line | lines])
    after
      0 -> lines |> Enum.reverse() |> Enum.join("\n")
    end
  end

  test "prints what there is, and what can be imported" do
    run(["json"])
    text = printed()
    assert text =~ ~r/^Python +3\.\d+\.\d+/m
    assert text =~ ~r/^isolation +:shared +works$/m
    assert text =~ ~r/^isolation +:process +works$/m
    assert text =~ ~r/^json +:shared +2\./m
  end

  test "fails if a package can be imported nowhere, after it has said why" do
    assert_raise Mix.Error, ~r/cannot be imported: nowhere/, fn -> run(["json", "nowhere"]) end
    assert printed() =~ ~r/^nowhere +:shared +ModuleNotFoundError/m
  end

  test "names what is no package, and what is no option" do
    assert_raise Mix.Error, ~r/name of a package/, fn -> run(["no/package"]) end
    assert_raise Mix.Error, ~r/unknown option --all/, fn -> run(["--all"]) end
  end
end
