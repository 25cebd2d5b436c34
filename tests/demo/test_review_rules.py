"""What each rule finds, and what it lets be."""

import pytest

from spellwork.demo.review.review import review_source

# Put together here so that no scanner of this repository takes them for real.
GITHUB = "ghp_" + "aB3dE6gH9jK2" * 3
AWS = "AKIA" + "Q3EGRWT7YUJM2P4X"
SLACK = "xoxb-" + "123456789012-abcdefABCDEF"
STRIPE = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN RSA PRIVATE " + "KEY-----\\nMIIEpAIBAAKCAQEA7bq1"
RANDOM = "q7Zp1Xv9Lk3Rt5Wy8Bn2"


def rules(code: str, path: str = "app.py") -> set[str]:
    """Return the rules that a piece of code breaks."""
    return {finding.rule for finding in review_source(path, code.encode()).findings}


FOUND = [
    ("weak-hash", "import hashlib\nhashlib.md5(data)"),
    ("weak-hash", "import hashlib as h\nh.sha1(data)"),
    ("weak-hash", "from hashlib import md5 as digest\ndigest(data)"),
    ("weak-hash", "import hashlib\nhashlib.new('MD5', data)"),
    ("weak-hash", "import hashlib\nhashlib.new(name='sha-1')"),
    ("no-expiry", "import jwt\njwt.encode({'sub': user}, key)"),
    ("no-expiry", "from jose import jwt\ndef f(user):\n    return jwt.encode({'sub': user}, key)"),
    ("no-expiry", "def create_token(user):\n    return sign(user.id, key)"),
    ("no-expiry", "def newSession(user):\n    s = make(user)\n    return s"),
    ("no-expiry", "def f(user):\n    session = {'user_id': user.id}\n    store(session)"),
    ("no-expiry", "def make_token(user):\n    '''Has no expiry.'''\n    return sign(user)"),
    ("eval-exec", "eval(text)"),
    ("eval-exec", "exec(compile(text, 'x', 'exec'))"),
    ("shell-true", "import subprocess\nsubprocess.run(command, shell=True)"),
    ("shell-true", "from subprocess import check_output as out\nout('ls', shell=True)"),
    ("shell-true", "import os\nos.system('rm ' + name)"),
    ("pickle-load", "import pickle\npickle.loads(data)"),
    ("pickle-load", "from pickle import Unpickler\nUnpickler(file)"),
    ("yaml-load", "import yaml\nyaml.load(text)"),
    ("yaml-load", "import yaml\nyaml.load(text, Loader=yaml.FullLoader)"),
    ("yaml-load", "import yaml\nyaml.unsafe_load(text)"),
    ("bare-except", "try:\n    f()\nexcept:\n    g()"),
    ("swallowed-exception", "try:\n    f()\nexcept Exception:\n    pass"),
    ("swallowed-exception", "try:\n    f()\nexcept (KeyError, BaseException):\n    ..."),
    ("mutable-default", "def f(a=[]):\n    return a"),
    ("mutable-default", "async def f(*, a=dict()):\n    return a"),
    ("tls-verify-off", "import requests\nrequests.get(url, verify=False)"),
    ("tls-verify-off", "import httpx\nhttpx.AsyncClient(verify=False)"),
    ("tls-verify-off", "session.verify = False"),
    ("tls-verify-off", "import ssl\ncontext.verify_mode = ssl.CERT_NONE"),
    ("jwt-unverified", "import jwt\njwt.decode(t, options={'verify_signature': False})"),
    ("insecure-random-token", "import random\ntoken = ''.join(random.choices(letters, k=9))"),
    ("insecure-random-token", "from random import randint\nsave(otp=randint(0, 999999))"),
    ("insecure-random-token", "import random\ndef reset_token():\n    return random.random()"),
    ("sql-format", "db.execute(f'SELECT * FROM t WHERE id = {id}')"),
    ("sql-format", "db.execute('SELECT * FROM t WHERE id = %s' % id)"),
    ("sql-format", "db.execute('DELETE FROM t WHERE id = ' + id)"),
    ("sql-format", "db.execute('SELECT * FROM t WHERE id = {}'.format(id))"),
    ("sql-format", "def f(id):\n    q = f'SELECT {id}'\n    db.execute(q)"),
    ("assert-in-code", "assert total > 0"),
    ("debug-true", "app.run(debug=True)"),
    ("debug-true", "DEBUG = True"),
    ("debug-true", "app.config['DEBUG'] = True"),
    ("hardcoded-secret", "JWT_SECRET = 'super-secret-signing-key'"),
    ("hardcoded-secret", "password: str = 'hunter22'"),
    ("hardcoded-secret", "connect(user='me', passwd='Tr0ub4dor')"),
    ("hardcoded-secret", f"config = {{'apiKey': '{RANDOM}'}}"),
    ("hardcoded-secret", f"GITHUB_TOKEN_FOR_CI = '{RANDOM}'"),
    ("hardcoded-secret", "import os\nkey = os.environ.get('SECRET_KEY', 'fallback-value')"),
    ("hardcoded-secret", "import os\nsecret = os.getenv('S') or 'fallback-value'"),
    ("hardcoded-secret", "def f(password='correcthorse'):\n    return password"),
    ("hardcoded-secret", "if password == 'opensesame':\n    f()"),
    ("hardcoded-secret", "self.private_key = b'0123456789abcdef'"),
    *[("secret-format", f"x = '{known}'") for known in (GITHUB, AWS, SLACK, STRIPE, JWT, PEM)],
    ("secret-format", "url = 'postgres://app:Xy7pQ2@db.internal/app'"),
]

LET_BE = [
    ("weak-hash", "import hashlib\nhashlib.md5(data, usedforsecurity=False)"),
    ("weak-hash", "import hashlib\nhashlib.sha256(data)\nhashlib.new('sha256')"),
    ("weak-hash", "from mine import md5\nmd5(data)"),
    ("no-expiry", "import jwt\njwt.encode({'sub': user, 'exp': soon}, key)"),
    ("no-expiry", "def create_token(user, ttl):\n    return sign(user.id, ttl)"),
    ("no-expiry", "def make_session(user):\n    return Session(user, maxAge=60)"),
    ("no-expiry", "def create_session(user):\n    return issue_token(user)"),
    ("no-expiry", "def generate_tokens(text):\n    return text.split()"),
    ("no-expiry", "def make_token(kind, text):\n    return Token(kind, text)"),
    ("no-expiry", "tokens = {'root': [('a', 'b')]}"),
    ("eval-exec", "eval('1 + 1')\nmodel.eval(data)"),
    ("shell-true", "import subprocess\nsubprocess.run(['ls', name], shell=False)"),
    ("pickle-load", "import pickle, json\npickle.dumps(x)\njson.loads(y)"),
    ("yaml-load", "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)\nyaml.safe_load(t)"),
    ("yaml-load", "import yaml\nyaml.load(text, OurLoader)"),
    ("bare-except", "try:\n    f()\nexcept:\n    undo()\n    raise"),
    ("swallowed-exception", "try:\n    f()\nexcept KeyError:\n    pass"),
    ("swallowed-exception", "try:\n    f()\nexcept Exception:\n    log()"),
    ("mutable-default", "def f(a=(), b=None, c=0):\n    return a"),
    ("tls-verify-off", "import requests\nrequests.get(url, verify=bundle)\ncheck(verify=False)"),
    ("jwt-unverified", "import jwt\njwt.decode(t, key, algorithms=['HS256'])"),
    ("insecure-random-token", "import secrets\ntoken = secrets.choice(letters)"),
    ("insecure-random-token", "import random\ncolour = random.choice(colours)"),
    ("insecure-random-token", "import random\ntoken = random.SystemRandom().choice(letters)"),
    ("sql-format", "db.execute('SELECT * FROM t WHERE id = ?', (id,))"),
    ("sql-format", "db.execute(f'DELETE FROM {TABLE}')"),
    ("sql-format", "def f(up):\n    o = 'ASC' if up else 'DESC'\n    db.execute(f'SELECT a ORDER BY a {o}')"),
    ("sql-format", "db.execute('SELECT a FROM t WHERE b IN (' + ','.join('?' * n) + ')', b)"),
    ("sql-format", "shell.execute(f'list {folder}')"),
    ("assert-in-code", "assert x is not None\nassert isinstance(y, int)"),
    ("debug-true", "DEBUG = False\nimport asyncio\nasyncio.run(main(), debug=True)"),
    ("hardcoded-secret", "password = ''\nsecret = 'xxxxxxxx'\npwd = '<your password>'"),
    ("hardcoded-secret", "import os\nsecret = os.environ['SECRET']"),
    ("hardcoded-secret", "secret = '${SECRET}'\npassword = 'your-password-here'"),
    ("hardcoded-secret", "token = 'NAME'\ntoken_type = 'bearer'\nTOKEN_URL = 'https://a.b/c'"),
    ("hardcoded-secret", "ACCESS_TOKEN = 'access_token'\nsecret = 'MY_SECRET'"),
    ("hardcoded-secret", "password = 'Enter your password: '\npassword_field = 'passwd1'"),
    ("secret-format", "x = 'AKIA'\ny = 'sk_live_'\nz = 'postgres://localhost/app'"),
    ("secret-format", "url = 'postgres://postgres:postgres@localhost/app'"),
]


@pytest.mark.parametrize(("rule", "code"), FOUND)
def test_a_weakness_is_found(rule, code):
    """Each rule sees its weakness, however the names were imported."""
    assert rule in rules(code)


@pytest.mark.parametrize(("rule", "code"), LET_BE)
def test_what_only_resembles_a_weakness_is_let_be(rule, code):
    """Each rule is silent on the sound form of the same code."""
    assert rule not in rules(code)


def test_every_rule_has_an_example_of_both_kinds():
    """No rule is specified by what it finds alone."""
    assert {rule for rule, _ in FOUND} == {rule for rule, _ in LET_BE}
