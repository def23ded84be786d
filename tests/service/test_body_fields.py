"""What a header says of a body holds on both APIs, or is refused; never is a body read as something else."""

import gzip
import json
import zlib

import numpy as np
import pytest
import uvloop

from tests.service.conftest import API_KEY
from tests.service.direct_tools import sent
from tests.service.lamp import FakeEngines, png_of, tabular
from tests.service.oip_tools import request

V1, V2 = "/v1/models/lamp/predict", "/v2/models/lamp/infer"
ONES = np.ones((1, 1, 2, 2), "<f4")
JSON = "application/json"
BODIES = {
    "raw": (V1, "application/octet-stream", ONES.tobytes()),
    "json": (V1, JSON, json.dumps({"inputs": ONES.tolist()}).encode()),
    "picture": (V1, "image/png", png_of([[255, 255], [255, 255]])),
    "form": (
        V1,
        "multipart/form-data; boundary=xx",
        b'--xx\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + png_of([[255, 255]] * 2) + b"\r\n--xx--\r\n",
    ),
    "v2": (V2, JSON, request(ONES, "FP32")[0]),
}
CODINGS = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
    "gzip, deflate": lambda body: zlib.compress(gzip.compress(body)),
    "deflate, identity, gzip": lambda body: gzip.compress(zlib.compress(body)),
}


def post(client, kind, encode=bytes, content_type=None, **headers):
    url, known_type, body = BODIES[kind]
    fields = {"Content-Type": content_type or known_type, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return client.simulate_post(url, body=encode(body), headers=fields)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", BODIES)
def test_a_compressed_body_is_the_same_request(client, engines, kind, coding):
    result = post(client, kind, CODINGS[coding], Content_Encoding=coding)

    assert result.status_code == 200
    assert engines.asked[-1].tolist() == ONES.tolist()


def test_a_compressed_table_is_the_same_table(client_of):
    client = client_of(FakeEngines(**tabular()))
    table = b"power,age,socket,kind\n75,2,E14,LED\n"
    plain, packed = (
        client.simulate_post(V1, body=body, headers={"Content-Type": "text/csv", **coding})
        for body, coding in ((table, {}), (gzip.compress(table), {"Content-Encoding": "gzip"}))
    )

    assert plain.status_code == 200
    assert packed.json["predictions"] == plain.json["predictions"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "compress", "gzip, gzip, gzip, gzip"])
@pytest.mark.parametrize("kind", ["raw", "json", "v2"])
def test_a_coding_that_is_not_known_is_refused_with_those_that_are(client, kind, coding):
    result = post(client, kind, Content_Encoding=coding)

    assert result.status_code == 415
    assert "gzip, deflate, identity" in result.text


@pytest.mark.parametrize("kind", ["raw", "json", "picture", "v2"])
def test_what_is_not_what_its_coding_says_is_refused(client, engines, kind):
    assert post(client, kind, Content_Encoding="gzip").status_code == 400
    assert engines.asked == []


@pytest.mark.parametrize("kind", ["raw", "json", "v2"])
def test_a_body_that_grows_beyond_its_limit_is_refused(client, kind):
    def bomb(body):
        return gzip.compress(gzip.compress(body + b" " * 3_000_000))

    result = post(client, kind, bomb, Content_Encoding="gzip, gzip")

    assert result.status_code == 413
    assert "decompressed" in result.text


@pytest.mark.parametrize("kind", ["json", "v2"])
@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "utf-32", "iso-8859-1"])
def test_json_in_another_charset_is_refused(client, kind, charset):
    declared = post(client, kind, lambda body: body.decode().encode(charset), f"{JSON}; charset={charset}")

    assert declared.status_code == 415


@pytest.mark.parametrize("kind", ["json", "v2"])
@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "utf-32"])
def test_json_in_another_charset_is_no_json_where_nothing_is_said(client, kind, charset):
    assert post(client, kind, lambda body: body.decode().encode(charset)).status_code == 400


@pytest.mark.parametrize("kind", ["json", "v2"])
@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"'])
def test_json_that_says_utf_8_is_taken(client, kind, charset):
    assert post(client, kind, content_type=f"Application/JSON; Charset={charset}").status_code == 200


@pytest.mark.parametrize("large", [10**20, -(10**20), 2**63, 2**64, 10**38])
@pytest.mark.parametrize("beside", [0, 1.5, -1])
def test_a_float_may_be_written_as_any_whole_number(client, engines, large, beside):
    numbers = [[[large, beside], [0, 0]]]
    v1 = client.simulate_post(V1, body=json.dumps({"inputs": numbers}), headers={"Content-Type": JSON})
    tensor = {"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [numbers]}
    v2 = client.simulate_post(V2, body=json.dumps({"inputs": [tensor]}))

    assert (v1.status_code, v2.status_code) == (200, 200)
    for asked in engines.asked[-2:]:
        np.testing.assert_array_equal(asked, np.array([numbers], np.float64).astype("<f4"))


@pytest.mark.parametrize("wrong", [10**400, 10**39])
def test_a_whole_number_beyond_all_floats_is_refused(client, wrong):
    body = json.dumps({"inputs": [[[wrong, 0], [0, 0]]]})

    result = client.simulate_post(V1, body=body, headers={"Content-Type": JSON})

    assert (result.status_code, result.json["type"]) == (422, "urn:bedplate:problem:not-finite")


@pytest.mark.parametrize("wrong", ["true", "null", '"1"', "{}"])
def test_what_is_no_number_beside_a_large_one_is_refused(client, wrong):
    body = f'{{"inputs": [[[100000000000000000000, {wrong}], [0, 0]]]}}'

    assert client.simulate_post(V1, body=body, headers={"Content-Type": JSON}).status_code == 422


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("picture", "image/png; charset=binary"),
        ("picture", "IMAGE/PNG; Charset=utf-16"),
        ("raw", "Application/Octet-Stream; charset=binary"),
        ("form", 'Multipart/Form-Data; charset=utf-16; Boundary="xx"'),
    ],
)
def test_a_charset_of_what_is_no_text_says_nothing(client, kind, content_type):
    assert post(client, kind, content_type=content_type).status_code == 200


@pytest.mark.parametrize("kind", ["raw", "json", "v2"])
def test_a_part_of_a_body_is_none(client, kind):
    assert post(client, kind, Content_Range="bytes 0-9/10").status_code == 400


@pytest.mark.parametrize(
    "line",
    [
        "Content-Encoding: gzip",
        "content-encoding:br",
        "Content-Transfer-Encoding:base64",
        "Content-Transfer-Encoding: base64",
        "Content-Transfer-Encoding: quoted-printable",
        "Content-Type: text/plain; charset=utf-16",
    ],
)
def test_a_part_that_is_coded_by_itself_is_refused(client, engines, line):
    result = post(client, "form", lambda body: body.replace(b"\r\n\r\n", b"\r\n" + line.encode() + b"\r\n\r\n", 1))

    assert result.status_code in (400, 415)
    assert engines.asked == []


@pytest.mark.parametrize("kind", ["raw", "v2"])
@pytest.mark.parametrize("name", ["Content-Type", "X-Request-Timeout-Ms", "X-Request-Priority"])
def test_a_field_with_two_readings_is_refused(client, kind, name):
    url, content_type, body = BODIES[kind]
    lines = f"Host: x\r\nX-API-Key: {API_KEY}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    head = f"POST {url} HTTP/1.1\r\n{lines}{name}: batch\r\n{name}: interactive\r\n\r\n"

    answer, _ = uvloop.run(sent(client.app, client.app.direct, head.encode() + body))

    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "line", ["Content-Encoding: gzip", "Content-Range: bytes 0-9/10", "Content-Type: application/json; charset=utf-16"]
)
def test_what_changes_a_body_is_not_answered_directly(client, line):
    url, _, body = BODIES["v2"]
    lines = f"Host: x\r\nX-API-Key: {API_KEY}\r\nContent-Length: {len(body)}\r\n{line}\r\n"

    answer, _ = uvloop.run(sent(client.app, client.app.direct, f"POST {url} HTTP/1.1\r\n{lines}\r\n".encode() + body))

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 415 "))
