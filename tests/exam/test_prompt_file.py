"""Prompts from CSV files: what is read, and what a wrong file is told."""

from __future__ import annotations

import pytest
from places import SHARED

from convert.disk import FileError
from ea_jax.exam.prompt_file import Row, read_rows, repeated

I2P = SHARED / "prompts" / "i2p.csv"


@pytest.fixture
def read(tmp_path):
    def read(content: str | bytes) -> list[Row]:
        path = tmp_path / "prompts.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(path)

    return read


def test_a_prompt_may_have_commas_quotes_lines_and_spaces(read):
    rows = read('evaluation_seed,prompt\n7,"a ""b"", c\nd "\n8, e\n')
    assert rows == [Row(2, 'a "b", c\nd ', 7), Row(4, " e", 8)]


def test_a_text_file_has_a_prompt_a_line_and_their_order_is_their_seed(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("a bus, red\n\n  a dog \na dog\n")
    assert read_rows(path) == [Row(1, "a bus, red", 0), Row(3, "a dog", 1), Row(4, "a dog", 2)]


def test_a_column_of_seeds_may_have_any_of_its_names_and_be_absent(read):
    for name in ("seed", "sd_seed", "evaluation_seed"):
        assert [row.seed for row in read(f"prompt,{name}\na,5\nb,4294967295\n")] == [5, 2**32 - 1]
    assert [row.seed for row in read("prompt\na\n\na\n")] == [0, 1]


def test_a_byte_order_mark_is_no_part_of_the_first_column(read):
    assert read("\ufeffprompt\na\n") == [Row(2, "a", 0)]


def test_rows_that_are_numbered_as_cases_may_ask_for_the_same_picture(read):
    rows = read("case_number,prompt,seed\n1,a,5\n2,a,5\n3,a,6\n")
    assert (len(rows), repeated(rows)) == (3, 1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "prompts.csv is empty; give"),
        (" \n\n", "prompts.csv is empty; give"),
        ("prompt,seed\n", "has no rows below its header"),
        ("text,seed\na,1\n", r"has no column 'prompt' \(its columns: 'text', 'seed'\); add one"),
        ("prompt,prompt\na,b\n", "has two columns 'prompt'; leave one"),
        ("prompt,seed\na,1\n ,2\n", "line 3: the prompt is ' '; write one"),
        ("prompt,seed\na,1\nb,1.5\n", "line 3: seed is '1.5'; a seed is a whole number from 0"),
        ("prompt,seed\na,\n", "line 2: seed is ''; a seed"),
        ("prompt,seed\na,-1\n", "line 2: seed is '-1'; a seed"),
        ("prompt,seed\na,1_0\n", "line 2: seed is '1_0'; a seed"),
        ("prompt,seed\na,4294967296\n", "line 2: seed is '4294967296'; a seed"),
        ("prompt,seed\na, b,1\n", "line 2, has 3 values for 2 columns; put prompts with commas"),
        ("prompt,seed\na\n", "line 2, has 1 values for 2 columns"),
        ('prompt,seed\n"a\nb",1\na,2\n"c', "line 5: unexpected end of data; mend its quotes"),
        ("prompt,seed\na,1\nb,1\na,1\n", "line 4: 'a' with seed 1 stands on line 2 as well"),
        (
            "prompt,seed,case_number\na,1,1\na,1,1\n",
            "line 3: 'a' with seed 1 stands on line 2 as well",
        ),
        (b"prompt,seed\na,1\ncaf\xe9,2\n", "line 3: byte 0xe9 is not UTF-8; save the file"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_row_and_value(read, content, told):
    with pytest.raises(FileError, match=told) as error:
        read(content)
    assert "\n" not in str(error.value)


def test_a_file_that_is_absent_or_a_folder_is_told(tmp_path):
    with pytest.raises(FileError, match=r"none\.csv does not exist; give a CSV file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(FileError, match=r"can't be read \(Is a directory\)"):
        read_rows(tmp_path)


@pytest.mark.skipif(not I2P.is_file(), reason="I2P's file is absent")
def test_i2p_is_read_whole_with_its_eleven_repeated_pictures():
    rows = read_rows(I2P)
    assert (len(rows), repeated(rows)) == (4703, 11)
    assert (rows[0].seed, rows[-1].case) == (4261553411, "4702")
