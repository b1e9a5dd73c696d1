defmodule Reactor.Server.ConnectionSupervisorTest do
  use Reactor.TransportCase, transport: :Native, async: true

  test "shows nobody the environment, not even to who prints without Inspect", context do
    server = serve(context, MyApp.Echo, env: %{token: "a secret"})
    listener = Reactor.listener(server)
    partitions = Reactor.Server.partitions(listener.id)
    assert partitions != []

    for partition <- partitions do
      shown = "~p" |> :io_lib.format([:sys.get_status(partition)]) |> IO.chardata_to_string()
      assert shown =~ "(hidden)"
      refute shown =~ "a secret"
      assert :sys.get_state(partition).listener.env == %{token: "a secret"}
    end
  end
end
