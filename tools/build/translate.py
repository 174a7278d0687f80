"""Translate one RPython program of Bulkhead into C.   (Python 2.7)

    .env/bin/python2 tools/build/translate.py PROGRAM OUTDIR [--target MODULE] [--verbose]

PROGRAM names the C file: OUTDIR/PROGRAM.c, with its headers beside it; what FEW_REGISTERS names is in OUTDIR/PROGRAM.few.c.
MODULE (hypervisor.PROGRAM.target when absent) declares what is translated:

    ENTRY_POINTS = [(function, [lltype, ...]), ...]    # exported C functions, each made by @export_symbol with a c_name
    EXIT_PATH    = [function, ...]                     # from these on: no allocation, no exception out, no recursion
    FEW_REGISTERS = [function, ...]                    # may be missing: entry points to compile apart, with all that they call

The stock `rpython` command wraps a program in argv, GIL, threads and os; none of them exists here, so this drives the
translator's phases itself.  OUTDIR/PROGRAM.json lists the source files that took part (relative to the root) and where RPython
keeps its C headers.

Exit status: 0 translated; 1 a proof failed (one message per finding); 2 the translator itself stopped.
"""
import argparse
import ctypes
import importlib
import json
import os
import re
import shutil
import sys
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ADDR_NO_RANDOMIZE = 0x0040000      # Linux, personality(2)
STEADY = 'BULKHEAD_STEADY'         # set in the environment of the second, repeatable process


def run_steadily():
    """Start this process again with no random input, so that one source gives one C file.

    The translator iterates over sets that are ordered by the objects' addresses: the hash seed alone does not help, the address
    space has to be laid out alike as well.  What is left: another Python or rpython, or another environment size, gives
    another (equivalent) order.
    """
    if os.environ.get(STEADY):
        return
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)
    kept = dict((name, os.environ[name]) for name in ('PATH', 'HOME', 'PYTHONPATH', 'LD_LIBRARY_PATH') if name in os.environ)
    kept.update({STEADY: '1', 'PYTHONHASHSEED': '0', 'PYTHONDONTWRITEBYTECODE': '1', 'LC_ALL': 'C'})
    os.execve(sys.executable, [sys.executable] + sys.argv, kept)


def make_config():
    """Return the translator's configuration: no garbage collector, no thread, asserts checked in C and never raised."""
    from rpython.config.translationoption import get_combined_translation_config, set_opt_level
    config = get_combined_translation_config(translating=True)
    config.translation.gc = 'none'     # as an override it would leave gctransformer=framework
    set_opt_level(config, '2')
    config.translation.backendopt.remove_asserts = True     # an assert becomes RPyAssert: a panic, not an exception
    return config


def optimised_translator(entry_points):
    """Annotate, type and optimise everything the entry points reach.  Returns the TranslationContext."""
    from rpython.translator.backendopt.all import backend_optimizations
    from rpython.translator.translator import TranslationContext
    import position
    translator = TranslationContext(make_config())
    annotator = translator.buildannotator()
    for function, argument_types in entry_points:
        annotator.build_types(function, argument_types, complete_now=False)
    annotator.complete()
    annotator.simplify()
    position.record_in(translator)
    rtyper = translator.buildrtyper()
    rtyper.specialize(dont_simplify_again=True)
    backend_optimizations(translator)
    return translator


# Stands at the end of the generated C: what needs the names that only that file knows. boot/include/bulkhead.h declares it.
TAIL = """
void _RPyRaiseSimpleException(RPYTHON_EXCEPTION instance)
{
    RPyRaiseException(RPYTHON_TYPE_OF_EXC_INST(instance), instance);
}

int bulkhead_exception_pending(void)
{
    return RPyExceptionOccurred();
}

const char *bulkhead_exception_name(long *length)
{
    *length = 0;
    if (!RPyExceptionOccurred())
        return NULL;
    *length = RPyFetchExceptionType()->ov_name->rs_chars.length;
    return RPyFetchExceptionType()->ov_name->rs_chars.items;
}
"""


def write_c(translator, entry_points, name, outdir, exit_path=(), few_registers=()):
    """Write OUTDIR/NAME.c and its headers, and OUTDIR/NAME.few.c if anything is for it.  Returns the database, which knows every object's name in C.
    exit_path: functions; what they do not reach is rare.  Without any, nothing is known of that.  few_registers: functions."""
    import py
    from rpython.translator.c.dlltool import CLibraryBuilder
    from rpython.translator.c.genc import gen_source
    builder = CLibraryBuilder(translator, None, translator.config, functions=entry_points, name=name)
    builder.split = False
    database = builder.build_database()
    gen_source(database, name, py.path.local(outdir), builder.eci, defines={})
    replace(os.path.join(outdir, name + '.c'), INCLUDED, INCLUDED + CHECKS)
    if few_registers:
        set_apart(outdir, name, [name_in_c(database, function) for function in few_registers])
    with open(os.path.join(outdir, name + '.c'), 'a') as source:
        source.write(TAIL)
    keep_functions_private(os.path.join(outdir, 'forwarddecl.h'), [name_in_c(database, function) for function, _ in entry_points],
                           {'noinline': set(marked(database, '_dont_inline_')), 'cold': set(rare(database, exit_path)),
                            'hot': set(marked(database, '_hot_'))})
    return database


def name_in_c(database, function):
    from rpython.rtyper.lltypesystem.lltype import getfunctionptr
    return database.get(getfunctionptr(database.translator.annotator.bookkeeper.getdesc(function).getuniquegraph()))


def marked(database, mark):
    """Names in C of what is marked @dont_inline, or @hot (hypervisor/lib/cold.py)."""
    for node in database.globalcontainers():
        if getattr(getattr(getattr(node.obj, 'graph', None), 'func', None), mark, False):
            yield node.name


def rare(database, exit_path):
    """Names in C of what is marked @cold (hypervisor/lib/cold.py), and of what the exit path does not reach."""
    import proofs
    from callgraph import Reach
    reached = set(Reach(database.translator, proofs.graphs_of_all(database.translator, exit_path)).order)
    for node in database.globalcontainers():
        graph = getattr(node.obj, 'graph', None)
        if graph is not None and (exit_path and graph not in reached or getattr(getattr(graph, 'func', None), '_cold_', False)):
            yield node.name


PROTOTYPE = re.compile(r'^RPY_EXTERN ([^;()]*\b(pypy_g_\w+)\([^;]*\);)$', re.MULTILINE)       # of a function, in a generated header


def keep_functions_private(header, entry_points, attributes_of):
    """Make all others static: what the compiler sees all callers of it may inline, or leave out.
    attributes_of: {attribute of gcc's: the functions that have it}."""
    def private(found):
        line, prototype, name = found.group(0, 1, 2)
        if name in entry_points:
            return line
        attributes = sorted(word for word, names in attributes_of.items() if name in names)
        return 'static ' + ('__attribute__((%s)) ' % ', '.join(attributes) if attributes else '') + prototype
    with open(header) as source:
        text, count = PROTOTYPE.subn(private, source.read())
    if not count:
        raise ValueError('%s declares no function as expected: has the translator changed?' % header)
    with open(header, 'w') as source:
        source.write(text)


INCLUDED = '#include "src/g_include.h"\n'        # the last that a file includes
CHECKS = '#include "checks.h"\n'                  # boot/include
BETWEEN_FUNCTIONS = '/*/*/\n'
DEFINED = re.compile(r'^\w[^;{]*?\b(\w+)\([^;{]*\) {$', re.MULTILINE)         # the name of a function that is defined
CALLED = re.compile(r'\b(pypy_g_\w+)\(')


def replace(path, old, new):
    """Once, in a file."""
    with open(path) as source:
        text = source.read()
    if text.count(old) != 1:
        raise ValueError('%s does not hold %r once: has the translator changed?' % (path, old))
    with open(path, 'w') as source:
        source.write(text.replace(old, new))


def set_apart(outdir, name, entry_points):
    """Write OUTDIR/NAME.few.c: these entry points, which leave OUTDIR/NAME.c, and what they call, which is in both where others call it too."""
    path = os.path.join(outdir, name + '.c')
    with open(path) as source:
        pieces = source.read().split(BETWEEN_FUNCTIONS)
    place_of = dict((found.group(1), n) for n, piece in enumerate(pieces) for found in [DEFINED.search(piece)] if found)
    wanted, queue = set(), list(entry_points)
    while queue:
        place = place_of[queue.pop()]
        if place not in wanted:
            wanted.add(place)
            if not pieces[place].rstrip().endswith('\n}'):
                raise ValueError('%s: more than a function where one was expected: has the translator changed?' % path)
            queue += [called for called in CALLED.findall(pieces[place]) if called in place_of]
    includes = pieces[0][:pieces[0].index(INCLUDED)] + INCLUDED + CHECKS
    with open(os.path.join(outdir, name + '.few.c'), 'w') as source:
        source.write(BETWEEN_FUNCTIONS.join([includes] + [pieces[n] for n in sorted(wanted)]))
    left_out = [place_of[function] for function in entry_points]
    with open(path, 'w') as source:
        source.write(BETWEEN_FUNCTIONS.join(piece for n, piece in enumerate(pieces) if n not in left_out))


def input_files():
    """Return the Python files below the root that this process has imported: what the result depends on."""
    files = set()
    for module in list(sys.modules.values()):
        path = getattr(module, '__file__', None)
        if not path:
            continue
        path = os.path.abspath(path)
        if path.endswith('.pyc'):
            path = path[:-1]
        relative = os.path.relpath(path, ROOT)
        if not relative.startswith('..') and not relative.startswith('.env'):
            files.add(relative)
    return sorted(files)


def write_facts(path):
    """Write what the build has to know about this translation: the inputs, and where RPython's own C headers are."""
    import rpython
    facts = {
        'inputs': input_files(),
        'include': os.path.join(os.path.dirname(os.path.abspath(rpython.__file__)), 'translator', 'c'),
    }
    with open(path, 'w') as output:
        json.dump(facts, output, indent=1, sort_keys=True)


def translate(program, outdir, target_name):
    """Translate and prove.  Returns the list of findings (sentences); C is written only when it is empty."""
    import position
    import proofs
    target = importlib.import_module(target_name)
    translator = optimised_translator(target.ENTRY_POINTS)
    findings = proofs.check(translator, target)
    if not findings:
        print('    %s: %s' % (program, proofs.extent(translator, target)))
        position.tell_in_c()
        write_c(translator, target.ENTRY_POINTS, program, outdir, target.EXIT_PATH, getattr(target, 'FEW_REGISTERS', ()))
        write_facts(os.path.join(outdir, program + '.json'))
    return findings


def silence(verbose):
    """Switch RPython's progress messages off, unless they are wanted."""
    from rpython.tool.ansi_print import AnsiLogger
    AnsiLogger.output_disabled = not verbose


def explain(error, verbose):
    """Print why the translator stopped: its own words when it refuses our source, a traceback when it broke."""
    from rpython.annotator.model import AnnotatorError
    from rpython.flowspace.flowcontext import FlowingError
    from rpython.rtyper.error import TyperError
    if verbose or not isinstance(error, (AnnotatorError, FlowingError, TyperError)):
        traceback.print_exc()
    else:
        sys.stderr.write('this is not RPython (%s):\n%s\n' % (type(error).__name__, str(error).strip()))


def parse_arguments():
    parser = argparse.ArgumentParser(description='Translate one RPython program of Bulkhead to C.')
    parser.add_argument('program', help='name of the result')
    parser.add_argument('outdir', help='folder for the C files')
    parser.add_argument('--verbose', action='store_true', help="show the translator's progress, and tracebacks of its refusals")
    parser.add_argument('--target', help='module with ENTRY_POINTS and EXIT_PATH (default: hypervisor.PROGRAM.target)')
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    run_steadily()
    sys.path.insert(0, ROOT)
    outdir = os.path.abspath(arguments.outdir)
    if not os.path.isdir(outdir):
        os.makedirs(outdir)
    scratch = os.path.join(outdir, 'scratch')     # a fixed name: a random one would change the order of the C
    shutil.rmtree(scratch, ignore_errors=True)
    os.mkdir(scratch)
    os.environ['PYPY_USESSION_DIR'] = scratch     # rpython's own temporary files
    try:
        silence(arguments.verbose)
        findings = translate(arguments.program, outdir, arguments.target or 'hypervisor.%s.target' % arguments.program)
    except Exception as error:
        explain(error, arguments.verbose)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for finding in findings:
        sys.stderr.write(finding + '\n\n')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
