"""Chat templates of the GLM-4 family for the tests, each rendering its family's format in words of our own."""

from __future__ import annotations

# glm-4-9b-chat: tools lie in a message, and messages without content are skipped.
GLM_4_9B_CHAT = """[gMASK]<sop>
{%- for message in messages -%}
    {%- if message.tools -%}
        {{- '<|system|>\\n你是 ChatGLM。\\n\\n# 可用工具' -}}
        {%- for tool in message.tools if tool.type == 'function' -%}
            {{- '\\n## ' + tool.function.name + '\\n\\n' + tool.function|tojson(indent=4) -}}
            {{- '\\n在调用上述函数时，请使用 Json 格式表示调用的参数。' -}}
        {%- endfor -%}
    {%- endif -%}
    {%- if message.content -%}
        {{- '<|' + message.role + '|>' + (message.metadata or '') + '\\n' + message.content -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""

# GLM-Edge: no prefix, and a generation prompt that ends with a line break.
GLM_EDGE = """{% for message in messages %}<|{{ message.role }}|>
{{ message.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""

# GLM-Z1: earlier reasoning is cut off, and the generation prompt opens the reasoning.
GLM_Z1 = """[gMASK]<sop>
{%- for message in messages -%}
    {{- '<|' + message.role + '|>\\n' + message.content.split('</think>')[-1].strip() -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n<think>' -}}{%- endif -%}
"""
