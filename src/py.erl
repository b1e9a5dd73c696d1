%% Python from Erlang, by contexts that have numbers. A thin layer over 'Elixir.Reactor.Python', which
%% documents what is converted, and what the errors mean.
%%
%% A context is started when it is first asked for, with the options that the environment variable py of
%% the application reactor holds, a property list as Reactor.Python.start_context/1 takes it:
%%
%%     {reactor, [{py, [{paths, [<<"/srv/python">>]}, {setup, <<"import my_protocols">>}]}]}
%%
%% Each process has names of its own in each context, which begin as those that the setup code has set, and end
%% with the process. The option namespace, shared, is about the context's own.
%%
%% Code may be a binary or a string. Arguments that are strings are lists of numbers to Python: text is a
%% binary. An atom is an erlang.terms.Atom there, which is a str, and comes back as an atom; undefined is one
%% like others, nil is None. A binary is a str if it is UTF-8, else bytes; the option {binaries, bytes} makes
%% all of them bytes. What has no counterpart in Erlang, as an open file, the option {return, object} makes something to be
%% given to Python again. The guide docs/python_terms.md has all of it.
-module(py).

-export([context/1, exec/1, exec/2, eval/2, eval/3, eval/4, call/3, call/4, call/5, dup_fd/1]).
-export([exec_async/2, eval_async/2, eval_async/3, call_async/3, call_async/4, call_async/5]).
-export([await/1, await/2, cancel/1]).
-export([register_function/2, register_function/3, unregister_function/1]).

-export_type([context/0, call/0, error/0]).

-type context() :: pid() | atom() | {global, term()} | {via, module(), term()}.
-opaque call() :: map().
-type error() :: {error, noproc | closed | timeout | overloaded | cancelled | map()}.

-define(PYTHON, 'Elixir.Reactor.Python').

%% The context of that number, started if need be. Ask again after it has died: it is another process
%% then. Raises {python_context, Number, Reason} if it cannot be started.
-spec context(pos_integer()) -> pid().
context(Number) when is_integer(Number), Number > 0 ->
    case 'Elixir.Reactor.Python.Numbered':context(Number) of
        {ok, Pid} -> Pid;
        {error, Reason} -> error({python_context, Number, Reason})
    end.

%% Executes statements, in context 1 or in the one given.
-spec exec(unicode:chardata()) -> ok | error().
exec(Code) ->
    exec(context(1), Code).

-spec exec(context(), unicode:chardata()) -> ok | error().
exec(Context, Code) ->
    ?PYTHON:exec(Context, text(Code)).

%% The value of an expression. Variables are a map; their names atoms or binaries.
-spec eval(context(), unicode:chardata()) -> {ok, term()} | error().
eval(Context, Expression) ->
    eval(Context, Expression, #{}).

-spec eval(context(), unicode:chardata(), map()) -> {ok, term()} | error().
eval(Context, Expression, Variables) ->
    eval(Context, Expression, Variables, []).

%% Options, in a map or a property list: timeout in ms or infinity; namespace: own or shared; binaries:
%% auto, text or bytes; and return: value or object.
-spec eval(context(), unicode:chardata(), map(), map() | list()) -> {ok, term()} | error().
eval(Context, Expression, Variables, Options) ->
    ?PYTHON:eval(Context, text(Expression), Variables, options(Options)).

%% Calls a function of a module: call(Module, Function, Arguments) in context 1, or
%% call(Context, Module, Function) without arguments.
-spec call(context() | module(), atom() | binary(), atom() | binary() | list()) ->
    {ok, term()} | error().
call(Module, Function, Arguments) when is_list(Arguments) ->
    call(context(1), Module, Function, Arguments);
call(Context, Module, Function) ->
    call(Context, Module, Function, []).

-spec call(context(), atom() | binary(), atom() | binary(), list()) -> {ok, term()} | error().
call(Context, Module, Function, Arguments) ->
    call(Context, Module, Function, Arguments, #{}).

%% Options as for eval/4, and kwargs, a map. A coroutine is awaited, while other calls go on.
-spec call(context(), atom() | binary(), atom() | binary(), list(), map() | list()) ->
    {ok, term()} | error().
call(Context, Module, Function, Arguments, Options) ->
    ?PYTHON:call(Context, Module, Function, Arguments, options(Options)).

%% The same without waiting: await/2 gives what they come to, to the process that made the call and to no
%% other. The call ends with that process.
-spec exec_async(context(), unicode:chardata()) -> {ok, call()} | error().
exec_async(Context, Code) ->
    ?PYTHON:exec_async(Context, text(Code)).

-spec eval_async(context(), unicode:chardata()) -> {ok, call()} | error().
eval_async(Context, Expression) ->
    eval_async(Context, Expression, #{}).

-spec eval_async(context(), unicode:chardata(), map()) -> {ok, call()} | error().
eval_async(Context, Expression, Variables) ->
    ?PYTHON:eval_async(Context, text(Expression), Variables).

-spec call_async(context(), atom() | binary(), atom() | binary()) -> {ok, call()} | error().
call_async(Context, Module, Function) ->
    call_async(Context, Module, Function, []).

-spec call_async(context(), atom() | binary(), atom() | binary(), list()) -> {ok, call()} | error().
call_async(Context, Module, Function, Arguments) ->
    call_async(Context, Module, Function, Arguments, #{}).

%% Options, in a map or a property list: kwargs, a map.
-spec call_async(context(), atom() | binary(), atom() | binary(), list(), map() | list()) ->
    {ok, call()} | error().
call_async(Context, Module, Function, Arguments, Options) ->
    ?PYTHON:call_async(Context, Module, Function, Arguments, options(Options)).

%% Waits for that long, in ms: by default 5000. Then the call is given up, and interrupted if it runs.
-spec await(call()) -> ok | {ok, term()} | error().
await(Call) ->
    ?PYTHON:await(Call).

-spec await(call(), timeout()) -> ok | {ok, term()} | error().
await(Call, Timeout) ->
    ?PYTHON:await(Call, Timeout).

%% Gives a call up.
-spec cancel(call()) -> ok.
cancel(Call) ->
    ?PYTHON:cancel(Call).

%% Lets Python call a function: erlang.call("Name", ...), or from erlang import Name. It has as many
%% arguments as Python gives, and is known to all contexts until it is unregistered.
-spec register_function(atom() | binary(), fun()) -> ok | {error, not_started}.
register_function(Name, Function) when is_function(Function) ->
    ?PYTHON:register_function(Name, Function).

-spec register_function(atom() | binary(), module(), atom()) -> ok | {error, not_started}.
register_function(Name, Module, Function) when is_atom(Module), is_atom(Function) ->
    ?PYTHON:register_function(Name, {Module, Function}).

-spec unregister_function(atom() | binary()) -> ok.
unregister_function(Name) ->
    ?PYTHON:unregister_function(Name).

%% Another descriptor for what a descriptor or a socket stands for. It is the caller's.
-spec dup_fd(non_neg_integer() | term()) -> {ok, non_neg_integer()} | {error, term()}.
dup_fd(FdOrSocket) ->
    ?PYTHON:dup_fd(FdOrSocket).

options(Options) when is_map(Options) -> maps:to_list(Options);
options(Options) -> Options.

text(Code) ->
    case unicode:characters_to_binary(Code) of
        Text when is_binary(Text) -> Text;
        _Other -> error(badarg, [Code])
    end.
