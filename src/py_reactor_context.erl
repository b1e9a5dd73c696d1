%% Contexts that serve connections which Erlang hands over to them. A thin layer over
%% 'Elixir.Reactor.Python'.
-module(py_reactor_context).

-export([start_link/1, start_link/2, start_link/3, handoff/2, handoff/3, stop/1]).

-define(PYTHON, 'Elixir.Reactor.Python').

%% How the isolations of Reactor.Python are also called here; any other name is one of its own.
-define(MODES, #{subinterp => subinterpreter}).

%% Starts the context of that number, linked to the caller; from then on py:context/1 finds it.
%% Options are those of Reactor.Python, in a map, and setup_code, another name for setup. They count
%% after those in py of the application's environment, see py; setup code of both is run.
-spec start_link(pos_integer()) -> {ok, pid()} | {error, term()}.
start_link(Number) ->
    start_link(Number, shared).

-spec start_link(pos_integer(), atom()) -> {ok, pid()} | {error, term()}.
start_link(Number, Mode) ->
    start_link(Number, Mode, #{}).

-spec start_link(pos_integer(), atom(), map()) -> {ok, pid()} | {error, term()}.
start_link(Number, Mode, Options) when is_integer(Number), Number > 0, is_map(Options) ->
    Isolation = maps:get(Mode, ?MODES, Mode),
    Given = [{isolation, Isolation} | [option(Option) || Option <- maps:to_list(Options)]],
    'Elixir.Reactor.Python.Numbered':start_link(Number, Given).

%% Gives a descriptor or a socket to context 1, or to the one given, whose factory makes its protocol. When it
%% returns ok, the caller has it no more; after an error it has it still.
-spec handoff(term(), map()) -> ok | {error, term()}.
handoff(FdOrSocket, Info) ->
    handoff(py:context(1), FdOrSocket, Info).

-spec handoff(py:context(), term(), map()) -> ok | {error, term()}.
handoff(Context, FdOrSocket, Info) ->
    ?PYTHON:handoff(Context, FdOrSocket, Info).

%% Lets a context's connections finish, and ends it.
-spec stop(py:context()) -> ok | {error, term()}.
stop(Context) ->
    ?PYTHON:stop_context(Context).

option({setup_code, Code}) -> {setup, text(Code)};
option({Name, Text}) when Name =:= venv; Name =:= python; Name =:= setup -> {Name, text(Text)};
option({Name, Texts}) when is_list(Texts), (Name =:= paths orelse Name =:= requirements) ->
    {Name, [text(Text) || Text <- Texts]};
option(Option) -> Option.

%% A string becomes a binary; what is neither is for Reactor.Python to refuse.
text(Text) ->
    try unicode:characters_to_binary(Text) of
        Binary when is_binary(Binary) -> Binary;
        _Other -> Text
    catch
        error:_ -> Text
    end.
