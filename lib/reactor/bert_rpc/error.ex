defmodule Reactor.BertRpc.Error do
  @moduledoc """
  An error that a server of BERT-RPC answers.

    * `:type` - `:protocol`, `:server`, `:user` or `:proxy`
    * `:code` - a number, of which those below 100 have a meaning. Of `:protocol`: 1, the packet cannot be taken; 2, it
      cannot be read. Of `:server`: 1, no such module; 2, no such function. 0 is any other error.
    * `:class` and `:detail` - text: the kind of error, and what is wrong
    * `:backtrace` - a list of text

  A function that is exposed may raise one, which is answered as it is: of the type `:user` unless that is given.

      raise Reactor.BertRpc.Error, code: 100, class: "OutOfStock", detail: "there are 2 left"
  """

  defexception type: :user, code: 0, class: "BERTError", detail: "", backtrace: []

  @type t :: %__MODULE__{
          type: :protocol | :server | :user | :proxy,
          code: integer,
          class: String.t(),
          detail: String.t(),
          backtrace: [String.t()]
        }

  @impl true
  def message(%{type: type, code: code, class: class, detail: detail}),
    do: "#{type} error #{code}, #{class}: #{detail}"
end
