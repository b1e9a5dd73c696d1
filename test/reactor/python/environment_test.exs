defmodule Reactor.Python.EnvironmentTest do
  # In VMs of their own: the first context of each decides about the interpreter.
  use ExUnit.Case, async: true

  import Reactor.Environments

  alias Reactor.Python

  @moduletag :tmp_dir

  @no_packaging if packaging?(), do: false, else: "neither packaging nor pip is installed"

  # Prints what an expression comes to, in a context with these options.
  @program ~S"""
  show = fn name, options, expression ->
    case Reactor.Python.start_context(options) do
      {:ok, context} ->
        IO.puts("#{name}: " <> inspect(Reactor.Python.eval(context, expression)))

      {:error, error} ->
        IO.puts("#{name}: " <> hd(String.split(Exception.message(error), "\n")))
    end
  end
  """

  defp line(output, name) do
    [_, line] = Regex.run(~r/^#{name}: (.*)$/m, output) || flunk("no #{name} in:\n" <> output)
    line
  end

  test "the first context's venv is the interpreter's", %{tmp_dir: tmp} do
    venv = make(Path.join(tmp, "one"), reactor_test_package: "1.0")

    output =
      run(
        @program <>
          """
          setup = "import sys, reactor_test_package"
          show.(:executable, [venv: #{inspect(venv)}, setup: setup], "sys.executable")
          show.(:prefix, [setup: setup], "sys.prefix")
          show.(:version, [setup: setup], "reactor_test_package.version")
          """
      )

    assert line(output, :executable) == ~s({:ok, "#{venv}/bin/python"})
    assert line(output, :prefix) == ~s({:ok, "#{venv}"})
    assert line(output, :version) == ~s({:ok, "1.0"})
  end

  test "VIRTUAL_ENV is, if the first context has none", %{tmp_dir: tmp} do
    venv = make(Path.join(tmp, "one"), reactor_test_package: "1.0")
    program = @program <> ~s|show.(:prefix, [setup: "import sys"], "sys.prefix")|
    assert program |> run(VIRTUAL_ENV: venv) |> line(:prefix) == ~s({:ok, "#{venv}"})
  end

  test "a VIRTUAL_ENV that is of no use is left alone, with a warning", %{tmp_dir: tmp} do
    other = make(Path.join(tmp, "other"), [])
    File.write!(Path.join(other, "pyvenv.cfg"), "home = /usr/bin\nversion = 3.2.1\n")
    show = ~s|show.(:prefix, [setup: "import sys"], "sys.prefix")|
    # What was logged is out when the application has ended.
    program = @program <> show <> "\nApplication.stop(:reactor)\nLogger.flush()"

    for {venv, why} <- [{other, "is of Python 3.2"}, {"/nowhere", "is no virtual environment"}] do
      output = run(program, VIRTUAL_ENV: venv)
      assert line(output, :prefix) =~ ~s({:ok, ")
      refute line(output, :prefix) =~ venv
      assert output =~ "VIRTUAL_ENV is not used"
      assert output =~ why
    end
  end

  test "a venv of another version of Python is refused", %{tmp_dir: tmp} do
    venv = make(Path.join(tmp, "other"), [])
    File.write!(Path.join(venv, "pyvenv.cfg"), "home = /usr/bin\nversion_info = 3.2.1.final.0\n")
    assert {:error, %Python.Error{message: message}} = Python.start_context(venv: venv)

    assert message =~
             ~r/other is of Python 3.2, and this is Python 3\.\d+: make one with a python3/
  end

  test "later ones add theirs, unless a package would be in two versions", %{tmp_dir: tmp} do
    one = make(Path.join(tmp, "one"), reactor_test_package: "1.0", pip: "1")

    more =
      make(Path.join(tmp, "more"), reactor_test_more: "3", reactor_test_package: "1.0", pip: "2")

    other = make(Path.join(tmp, "other"), reactor_test_package: "2.0")

    output =
      run(
        @program <>
          """
          show.(:one, [venv: #{inspect(one)}], "__import__('reactor_test_package').version")
          show.(:more, [venv: #{inspect(more)}], "__import__('reactor_test_more').version")
          show.(:again, [venv: #{inspect(more)}], "__import__('sys').path.count(" <>
            inspect(hd(Path.wildcard("#{more}/lib/python3.*/site-packages"))) <> ")")
          show.(:other, [venv: #{inspect(other)}], "1")
          show.(:after, [], "__import__('reactor_test_package').version")
          """
      )

    assert line(output, :one) == ~s({:ok, "1.0"})
    assert line(output, :more) == ~s({:ok, "3"})
    assert line(output, :again) == "{:ok, 1}"
    assert line(output, :other) =~ "ImportError: #{other} cannot be used"
    assert line(output, :other) =~ "It has reactor-test-package 2.0 (here: 1.0)"
    assert line(output, :after) == ~s({:ok, "1.0"})
  end

  @tag skip: @no_packaging
  test "requirements are checked before a context starts", %{tmp_dir: tmp} do
    venv = make(Path.join(tmp, "one"), reactor_test_package: "1.5")

    output =
      run(
        @program <>
          """
          show.(:met, [venv: #{inspect(venv)}, requirements: ["reactor-test-package>=1.2,<2"]], "1")
          show.(:marked, [requirements: ["nothing; python_version < '3'"]], "1")
          show.(:old, [requirements: ["reactor_test_package>=2", "no-such-package"]], "1")
          show.(:extra, [requirements: ["reactor_test_package[more]"]], "1")
          show.(:none, [requirements: ["a b c"]], "1")
          """
      )

    assert line(output, :met) == "{:ok, 1}"
    assert line(output, :marked) == "{:ok, 1}"

    assert line(output, :old) =~
             "requirements are not met: reactor_test_package>=2 (1.5 is installed), " <>
               "no-such-package (not installed). Install them for #{venv}/bin/python"

    assert line(output, :extra) =~ "not met: no-such-part (not installed)"
    assert line(output, :none) =~ "ValueError: 'a b c' is no requirement"
  end

  test "what cannot be checked is an error", %{tmp_dir: tmp} do
    # Hidden by modules that cannot be imported.
    for name <- ["packaging", "pip", "setuptools"] do
      File.write!(Path.join(tmp, name <> ".py"), "raise ImportError")
    end

    output =
      run(@program <> ~s|show.(:unread, [paths: [#{inspect(tmp)}], requirements: ["pip"]], "1")|)

    assert line(output, :unread) =~ "requirements cannot be checked: neither packaging nor pip"
  end
end
