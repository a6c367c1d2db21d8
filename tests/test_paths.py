"""Languages of paths, held against Python's own regular expressions and brute force over words."""

import functools
import itertools
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from eprop_jax.engine import paths

NAMED = {rule.name: rule for rule in paths.NAMED if isinstance(rule.language, str)}
EXPRESSIONS = [
    *dict.fromkeys(rule.language for rule in NAMED.values()),
    *(paths.order(m) for m in (1, 2, 3, 5)),
    "i*(ei*)?f*",
    "",
    "()",
    "(|e)i",
    "i|",
    "(i|e){2}f",
    "i{0,0}",
    "(i?s){2,}",
    "(i*e*){1,2}",
    " ( i | s ) + f {1, 3} ".replace("{1, 3}", "{1,3}"),
    "(i|e)*i(i|e)(i|e)",
    "((i|f)?e){2,3}|s*",
    "(s|e)f|sf*",
]
often = hypothesis.settings(max_examples=60)


@functools.cache
def words(letters, longest):
    return ["".join(w) for n in range(longest + 1) for w in itertools.product(letters, repeat=n)]


def by_python(expression, word):
    """`re` on words in which `s` is a synapse of a unit to itself, which may be spelt `e` too."""
    return bool(re.fullmatch(expression.replace(" ", "").replace("e", "[es]"), word))


def drawn_expressions():
    atoms = st.sampled_from(paths.LETTERS)
    bounds = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda b: (b[0], b[0] + b[1]))

    def grow(inner):
        return st.one_of(
            st.lists(inner, max_size=3).map("".join),
            st.lists(inner, min_size=1, max_size=3).map(lambda x: f"({'|'.join(x)})"),
            st.tuples(inner, st.sampled_from("*+?")).map(lambda x: f"({x[0]}){x[1]}"),
            st.tuples(inner, bounds).map(lambda x: f"({x[0]}){{{x[1][0]},{x[1][1]}}}"),
            st.tuples(inner, st.integers(0, 2)).map(lambda x: f"({x[0]}){{{x[1]},}}"),
        )

    return st.recursive(atoms, grow, max_leaves=6)


# -- one automaton ----------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_accepts_the_words_that_python_accepts(expression):
    automaton = paths.compile(expression)
    for word in words("iesf", 6):
        assert paths.accepts(automaton, word) == by_python(expression, word), word


@often
@hypothesis.given(drawn_expressions())
def test_accepts_the_words_that_python_accepts_drawn(expression):
    automaton = paths.compile(expression)
    for word in words("iesf", 4):
        assert paths.accepts(automaton, word) == by_python(expression, word), word


def assert_minimal(n_states, accepting, moves):
    """Each state is reached from 0, each but 0 leads to one that accepts, and no two are alike."""
    reached = [0]
    for q in reached:
        reached += [r for r in dict.fromkeys(moves(q).values()) if r not in reached]
    assert reached == list(range(n_states))  # and breadth first

    def differ(p, q):
        pairs = [(p, q)]
        for p, q in pairs:
            if accepting(p) != accepting(q) or moves(p).keys() != moves(q).keys():
                return True
            both = [(moves(p)[x], moves(q)[x]) for x in moves(p)]
            pairs += [pair for pair in both if pair not in pairs]
        return False

    assert all(differ(p, q) for p, q in itertools.combinations(range(n_states), 2))
    for q in range(1, n_states):
        ahead = [q]
        for r in ahead:
            ahead += [s for s in moves(r).values() if s not in ahead]
        assert any(accepting(r) for r in ahead)


def minimal(automaton):
    def moves(q):
        return {x: r for x, r in automaton.moves[q]._asdict().items() if r is not None}

    assert_minimal(len(automaton.moves), automaton.accepting.__getitem__, moves)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_is_minimal(expression):
    minimal(paths.compile(expression))


@often
@hypothesis.given(drawn_expressions())
def test_is_minimal_drawn(expression):
    minimal(paths.compile(expression))


@pytest.mark.parametrize(
    "one, other",
    [
        ("(i|e|f)*", "(i*|e*|f*)*"),
        ("(i|e|f)*", "(f*e*i*)*"),
        ("(i|e|f)*", "((i|e)*f*)*"),
        ("i*((e|f)i*){0,0}", "i*"),
        (paths.order(3), "i*|i*(e|f)i*|i*(e|f)i*(e|f)i*"),
        (paths.order(4), "(i*(e|f)?){3}i*"),
        ("i*(fi*f*)?", "i*|i*fi*f*"),
        ("i*f*", " i * f * "),
        ("i+", "ii*"),
        ("i?", "(i|)"),
        ("i{2,}", "iii*"),
        ("i{2,4}", "ii(i(i)?)?"),
        ("(i|s)*", "(i*s*)*"),
        ("e", "e|s"),
        ("e", "(s|e)"),
        ("e*", "(e|s)*"),
        ("(i?){3}", "i{0,3}"),
        ("(i*){2,5}", "i*"),
        ("(e*i)*e*", "(i|e)*"),
        ("", "()"),
        ("i{0}", ""),
    ],
)
def test_one_language_is_one_automaton(one, other):
    assert paths.compile(one) == paths.compile(other)
    assert hash(paths.compile(one)) == hash(paths.compile(other))


@pytest.mark.parametrize(
    "one, other", [("i*", "i*f*"), ("e", "s"), ("(i|e)*", "(i|s)*"), ("i{1,2}", "i{1,3}")]
)
def test_two_languages_are_two(one, other):
    assert paths.compile(one) != paths.compile(other)


def test_a_synapse_to_itself_leads_to_one_state():
    """`e` and `s` may lead apart: the diagonal edge follows both spellings at once."""
    automaton = paths.compile("ei|sf")
    assert [paths.accepts(automaton, w) for w in ("ei", "ef", "si", "sf")] == [
        True,
        False,
        True,
        True,
    ]
    assert automaton.moves[0].e != automaton.moves[0].s


@pytest.mark.parametrize("m", range(1, 9))
def test_order_m_is_a_chain_of_m_states(m):
    automaton = paths.compile(paths.order(m))
    jumps = [(q + 1 if q + 1 < m else None) for q in range(m)]
    assert automaton.accepting == (True,) * m
    assert automaton.moves == tuple(
        paths.Moves(i=q, e=jumps[q], s=jumps[q], f=jumps[q]) for q in range(m)
    )


def test_a_high_order_compiles_and_an_absurd_one_is_refused():
    assert len(paths.compile(paths.order(300)).moves) == 300
    with pytest.raises(ValueError, match="paths: the language takes more than 1024 states"):
        paths.compile("(i|e)*i(i|e){12}")


def test_is_compiled_once():
    assert paths.compile("i*(ef)*") is paths.compile("i*(ef)*")


# -- pruned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one, other, letters",
    [
        ("(i|e)*f*", "(i|e|f)*", "ies"),
        ("i*f*", "i*", "ies"),
        ("(i|f)*", "i*", "ies"),
        ("i*(fi*f*)?", "i*", "ies"),
        ("(i|s)*f*", "(i|e)*", "is"),
        ("(i|e|f)*", "(i|f)*", "if"),
        ("(i|e)*f*", "i*f*", "if"),
        ("i*f*", "f*", "f"),
        ("i*((e|f)i*){0,1}", "i*(ei*)?", "ies"),
        ("if|e", "e", "ie"),
        ("i(f|e)", "ie", "ies"),
        ("f(i|e)*", "fi|fe", "ies"),
    ],
)
def test_pruned_of_what_a_network_lacks(one, other, letters):
    of = lambda expression: paths.prune(paths.compile(expression), letters)
    assert paths.compile(one) != paths.compile(other)
    assert of(one) == of(other)


@often
@hypothesis.given(drawn_expressions(), st.sets(st.sampled_from("iesf")))
def test_pruned_accepts_the_words_without_a_letter(expression, letters):
    automaton = paths.compile(expression)
    pruned = paths.prune(automaton, letters)
    minimal(pruned)
    for word in words("iesf", 4):
        expected = set(word) <= letters and paths.accepts(automaton, word)
        assert paths.accepts(pruned, word) == expected, word


def test_prune_refuses_an_unknown_letter():
    with pytest.raises(ValueError, match=r"letters: got \['x'\], wanted some of i e s f"):
        paths.prune(paths.compile("i*"), "ix")


# -- refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression, place, wanted",
    [
        ("i*x", "'x' at index 2", "the letters i e s f"),
        ("i* r", "'r' at index 3", "the letters i e s f"),
        ("(i|e", "its end at index 4", "the ')' of the '(' at index 0"),
        ("((i)(e", "its end at index 6", "the ')' of the '(' at index 4"),
        ("i)e", "')' at index 1", "a '(' before it"),
        ("*i", "'*' at index 0", "something to repeat before it: a letter of i e s f"),
        ("i|+", "'+' at index 2", "something to repeat"),
        ("({2})", "'{2}' at index 1", "something to repeat"),
        ("i**", "'*' at index 2", "parentheses"),
        ("i*?", "'?' at index 2", "parentheses"),
        ("i{2}{3}", "'{3}' at index 4", "parentheses"),
        ("i{3,1}", "'{3,1}' at index 1", "{m}, {m,} or {m,n} with m <= n"),
        ("i{,2}", "'{,2}' at index 1", "{m}, {m,} or {m,n}"),
        ("i{m}", "'{m}' at index 1", "{m}, {m,} or {m,n}"),
        ("i{-1}", "'{-1}' at index 1", "{m}, {m,} or {m,n}"),
        ("i{1 2}", "'{1 2}' at index 1", "{m}, {m,} or {m,n}"),
        ("i{2", "'{2' at index 1", "{m}, {m,} or {m,n}"),
        ("i}", "'}' at index 1", "the letters i e s f"),
        ("ie∗", "'∗' at index 2", "the letters i e s f"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_place(expression, place, wanted):
    with pytest.raises(ValueError) as refused:
        paths.compile(expression)
    said, shown, caret = str(refused.value).split("\n")
    assert said.startswith(f"paths: got {expression!r} with {place}, wanted ") and wanted in said
    index = int(re.search(r"at index (\d+),", said)[1])
    assert shown.strip() == expression.strip() and caret.index("^") == index + 4


@pytest.mark.parametrize("wrong", [None, 1, ("i",), b"i*"])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(TypeError, match=f"paths: got {type(wrong).__name__}, wanted a regular"):
        paths.compile(wrong)


# -- on layers --------------------------------------------------------------------------------------

WIRINGS = [
    paths.stack(1),
    paths.stack(2),
    paths.stack(3, "i"),
    paths.Wiring(("ies", "i", "is"), ((0, 1), (0, 2), (1, 2)), (False, True, True)),
    paths.Wiring(("", "ie"), ((0, 1),), (True, False)),
    paths.Wiring(("i", "i", "ies"), ((0, 2),), (True, False, True)),
    paths.Wiring(("ies", "ies"), ((0, 1),), (False, False)),
]
LANGUAGES = ["(i|e|f)*", "i*", "i*f*", "(i|e)*f*", "(i|s)*f*", paths.order(2), paths.order(3)]
LANGUAGES += ["i*(fi*f*)?", "i*f", "i(s|f)", "(ie)*f?", "f*i{2}"]


@functools.cache
def walks(wiring, start, longest):
    """Every walk of at most `longest` edges: (word, the layers it stands in one after the other)."""
    found = [("", (start,))]
    for word, layers in found:
        if len(word) < longest:
            here = layers[-1]
            found += [(word + x, (*layers, here)) for x in wiring.own[here]]
            found += [(word + "f", (*layers, b)) for a, b in wiring.hops if a == here]
    return found


def kept(automaton, wiring, word, layers):
    return wiring.read[layers[-1]] and paths.accepts(automaton, word)


def check(expression, wiring, longest=5):
    automaton, n = paths.compile(expression), len(wiring.own)
    nodes = paths.costates(automaton, wiring)
    live, exact = set(), [True] * n

    def through(word, layers):
        q = l = layers[0]
        for x, above in zip(word, layers[1:]):
            q = dict(nodes[q].f).get(above) if x == "f" else getattr(nodes[q], x)
            if q is None:
                return False
            l = nodes[q].layer
            assert l == above
        assert l == layers[-1]
        return nodes[q].ends

    for start in range(n):
        for word, layers in walks(wiring, start, longest):
            keeps = kept(automaton, wiring, word, layers)
            assert through(word, layers) == keeps
            exact[start] &= keeps or not wiring.read[layers[-1]]
            if keeps:
                state = 0
                live.add((start, 0))
                for x, layer in zip(word, layers[1:]):
                    state = getattr(automaton.moves[state], x)
                    live.add((layer, state))
    assert set(paths.reachable(automaton, wiring)) == live
    lost = paths.dropped(automaton, wiring)
    for start in range(n):
        assert (not [d for d in lost if d.start == start]) == exact[start]
    for d in lost:
        k, there = len(d.after), (d.after, (d.layer,))
        here = [x for x in walks(wiring, d.start, longest) if (x[0][:k], x[1][k : k + 1]) == there]
        if d.edge:
            here = [(w, ls) for w, ls in here if w[k : k + 1] == d.edge and ls[k + 1] == d.to]
            assert any(wiring.read[ls[-1]] for _, ls in here)
        else:
            here = [(w, ls) for w, ls in here if w == d.after]
            assert here and wiring.read[d.layer]
        assert not any(kept(automaton, wiring, w, ls) for w, ls in here)
    assert_distinct(nodes, n)


def assert_distinct(nodes, n):
    """As few co-states as can be: the first n are the starts, and no two others are alike."""
    assert [node.layer for node in nodes[:n]] == list(range(n))

    def moves(q):
        own = {x: getattr(nodes[q], x) for x in "ies" if getattr(nodes[q], x) is not None}
        return own | {f"f{above}": r for above, r in nodes[q].f}

    for q in range(len(nodes)):
        ahead = [q]
        for r in ahead:
            ahead += [x for x in moves(r).values() if x not in ahead]
        assert any(nodes[r].ends for r in ahead) or (q < n and not moves(q))

    for p, q in itertools.combinations(range(len(nodes)), 2):
        pairs = [(p, q)]
        for a, b in pairs:
            label = lambda k: (nodes[k].layer, nodes[k].ends, moves(k).keys())
            if label(a) != label(b):
                break
            both = [(moves(a)[x], moves(b)[x]) for x in moves(a)]
            pairs += [pair for pair in both if pair not in pairs]
        else:
            raise AssertionError((p, q))


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("expression", LANGUAGES)
def test_on_layers_as_brute_force(expression, wiring):
    check(expression, wiring)


@st.composite
def drawn_wirings(draw):
    n = draw(st.integers(1, 3))
    own = draw(st.lists(st.sampled_from(["", "i", "is", "ie", "ies"]), min_size=n, max_size=n))
    pairs = list(itertools.combinations(range(n), 2))
    hops = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    read = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return paths.Wiring(tuple(own), tuple(sorted(hops)), tuple(read))


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.sampled_from(LANGUAGES), drawn_wirings())
def test_on_layers_as_brute_force_drawn(expression, wiring):
    check(expression, wiring)


def test_order_m_reaches_the_upper_m_layers():
    """The paper's feed-forward statement: with a read-out on the top layer alone."""
    for m in range(1, 6):
        live = paths.reachable(paths.compile(paths.order(m)), paths.stack(4))
        assert [l for l in range(4) if (l, 0) in live] == list(range(max(4 - m, 0), 4))


@pytest.mark.parametrize(
    "expression, wiring, sizes",
    [
        ("(i|e|f)*", paths.stack(3), [1, 1, 1]),
        ("(i|e)*f*", paths.stack(2), [1, 2]),
        ("i*f*", paths.stack(2), [1, 2]),
        # Above, nothing jumps any more: all states of order 8 come to the same.
        (paths.order(8), paths.stack(2, "i"), [1, 1]),
        (paths.order(4), paths.stack(1), [4]),
        ("(i|f)*", paths.stack(4, "i"), [1, 1, 1, 1]),
    ],
)
def test_as_few_costates_as_the_network_needs(expression, wiring, sizes):
    nodes = paths.costates(paths.compile(expression), wiring)
    assert [sum(node.layer == l for node in nodes) for l in range(len(sizes))] == sizes


def test_dropped_edges_in_words():
    said = [str(d) for d in paths.dropped(paths.compile("i*"), paths.stack(2))]
    assert said == [
        "layer 0: no i",
        "layer 0: no e",
        "layer 0: no s",
        "layer 0: no f to layer 1",
        "layer 1: no e",
        "layer 1: no s",
    ]
    said = [str(d) for d in paths.dropped(paths.compile("(i|e)f*"), paths.stack(1, "i"))]
    assert said == ["layer 0: no end", "layer 0: after i no i"]


@pytest.mark.parametrize(
    "wiring",
    [
        paths.Wiring(("i", "i"), ((1, 0),), (True, True)),
        paths.Wiring(("i", "i"), ((0, 2),), (True, True)),
        paths.Wiring(("i", "i"), ((0, 1),), (True,)),
        paths.Wiring(("i", "f"), ((0, 1),), (True, True)),
    ],
)
def test_a_wiring_that_is_none_is_refused(wiring):
    for f in (paths.reachable, paths.costates, paths.dropped):
        with pytest.raises(ValueError, match=r"wiring: got .*, wanted "):
            f(paths.compile("i*"), wiring)


# -- the table --------------------------------------------------------------------------------------

# Where each rule of the table is exact, and a network beside it on which it is not.
EXACT = {
    "BPTT": (paths.stack(3), None),
    "RTRL": (paths.stack(3), None),
    "e-prop": (paths.stack(1, "i"), paths.stack(1)),
    "D-RTRL": (paths.Wiring(("i", ""), ((0, 1),), (False, True)), paths.stack(2, "i")),
    "OSTL": (paths.Wiring(("ies", ""), ((0, 1),), (False, True)), paths.stack(2, "i")),
    "deep e-prop": (paths.stack(4, "i"), paths.stack(2)),
    "SnAp-1": (paths.stack(1, "is"), paths.stack(1)),
    "OTPE": (paths.stack(2, "i"), paths.stack(3, "i")),
    "OTTT": (paths.Wiring(("i", ""), ((0, 1),), (False, True)), paths.stack(2, "i")),
    "SLTT": (paths.stack(3, ""), paths.stack(1, "i")),
    "RFLO": (paths.stack(1, "i"), paths.stack(1, "is")),
    "DECOLLE": (paths.stack(1, "i"), paths.stack(1, "is")),
    "ETLP": (paths.stack(1, "i"), paths.stack(1, "is")),
}


def test_the_table_says_where_each_rule_is_exact():
    assert EXACT.keys() == NAMED.keys()
    for name, (on, not_on) in EXACT.items():
        automaton = paths.compile(NAMED[name].language)
        assert not paths.dropped(automaton, on), name
        assert not_on is None or paths.dropped(automaton, not_on), name


def test_the_table_prints_every_rule():
    head, rule, *rows = paths.as_text().splitlines()
    assert head.split()[:2] == ["rule", "paths"] and set(rule) == {"─"}
    for row, named in zip(rows, paths.NAMED, strict=True):
        language = named.language if isinstance(named.language, str) else "i*((e|f)i*){0,m-1}"
        assert row.startswith(named.name) and language in row and named.source in row


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="order: got 0, wanted an int >= 1"):
        paths.order(0)
