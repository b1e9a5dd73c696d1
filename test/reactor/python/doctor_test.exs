defmodule Reactor.Python.DoctorTest do
  use ExUnit.Case, async: true

  alias Reactor.{Environments, Isolations, Python.Doctor}

  doctest Doctor

  test "says what there is" do
    assert {:ok, report} = Doctor.report()
    assert report.version =~ ~r/^3\.\d+\.\d+/
    assert File.exists?(report.executable)
    assert File.exists?(report.libpython)
    assert File.dir?(report.prefix) and File.dir?(report.base_prefix)
    assert Application.app_dir(:reactor, "priv/python") in report.paths
    assert report.gil in [:gil, :free_threaded]
    assert report.fd_limit > 0
    assert report.packages == %{}
  end

  @tag :tmp_dir
  test "says which virtual environment Python is in", %{tmp_dir: tmp} do
    venv = Environments.make(Path.join(tmp, "venv"), [])

    program =
      "{:ok, report} = Reactor.Python.Doctor.report(); IO.puts([report.venv, ?:, report.prefix])"

    assert Environments.run(program, VIRTUAL_ENV: venv) == "#{venv}:#{venv}\n"
  end

  test "says which isolations work, and why the others do not" do
    {:ok, %{isolations: isolations}} = Doctor.report()
    assert isolations.shared == :ok
    assert isolations.process == :ok

    if :subinterpreter in Isolations.all() do
      assert isolations.subinterpreter == :ok
    else
      assert isolations.subinterpreter == :experimental or
               match?({:error, _}, isolations.subinterpreter)
    end
  end

  test "says of packages whether they can be imported, and where" do
    {:ok, %{packages: packages}} = Doctor.report(["json", "xml.etree", "nowhere.at_all"])
    assert Map.keys(packages) == ["json", "nowhere.at_all", "xml.etree"]

    for isolation <- Isolations.in_vm() do
      assert {:ok, "2." <> _} = packages["json"][isolation]
      assert {:ok, _} = packages["xml.etree"][isolation]
      assert {:error, "ModuleNotFoundError: " <> _} = packages["nowhere.at_all"][isolation]
    end
  end

  test "refuses what is no name" do
    for name <- ["", "numpy; print", "a..b", ".a", "1a", :numpy, <<255>>] do
      assert_raise ArgumentError, ~r/name of a package/, fn -> Doctor.report([name]) end
    end
  end
end
